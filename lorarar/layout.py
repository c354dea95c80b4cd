"""Layouts: the ordered groups of a base's linears that take LoRAs, and the tensors that follow. Numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorarar.errors import InputError

KINDS = {"q": ".to_q", "k": ".to_k", "v": ".to_v", "out": ".to_out.0"}
"""The kinds of attention linears, and how their module names end."""

# Part → the ends of the module names it holds. The paper learns `qo` and averages `kv` (§3.3); community LoRAs have
# most of their weight in `ff`.
PARTS: dict[str, tuple[str, ...]] = {
    "qo": (KINDS["q"], KINDS["out"]),
    "kv": (KINDS["k"], KINDS["v"]),
    "ff": (".ff.net.0.proj", ".ff.net.2"),
    "proj": (".proj_in", ".proj_out"),
}
ADAPT: dict[str, tuple[str, ...]] = {"attention": ("qo", "kv"), "transformer": tuple(PARTS)}
"""What a UNet's adapter can hold: the parts of the attention alone, or of whole transformer blocks."""
TEXT_PARTS = {"te1": "text_encoder", "te2": "text_encoder_2"}
"""Parts of an adapter outside the UNet → the text encoder whose linears they hold."""
TEXT_KINDS = (*(f".self_attn.{name}_proj" for name in ("q", "k", "v", "out")), ".mlp.fc1", ".mlp.fc2")
"""How the module names of a text encoder's linears that take LoRAs end."""
PAPER_LEARNED = ("q", "out")
"""The kinds whose coefficients the paper predicts; the other 14 choices are its Table A3."""
UNET = "unet."
MAX_LORAS = 8  # in one stack
MAX_STACKED_RANK = 1024  # of a stack: a larger one has factors larger than its dense ΔW

Shape = tuple[int | str, ...]
"""A shape; a name in it (STACKED_RANK) is a size that may differ from run to run, where the target allows it."""
STACKED_RANK = "stacked_rank"
"""The rows of a stack: of all its LoRAs together, and of padding."""
ROLES = "roles"
"""The name of the tensor that says whose row is whose."""
ADAPTER, COEFFICIENTS = "adapter_", "coefficients_"
"""What the names of a stack's factors and of coefficients start with."""


@dataclass(frozen=True, repr=False)
class Group:
    """The linears of one part and one weight shape (out, in), in `named_modules()` order."""

    part: str
    in_features: int
    out_features: int
    modules: tuple[str, ...]  # names inside the component, without `unet.`

    def __repr__(self) -> str:
        return f"Group({self.name}: {len(self.modules)} modules)"

    @property
    def name(self) -> str:
        """The name, which holds the part and the sizes: `qo_640x640`."""
        return f"{self.part}_{self.in_features}x{self.out_features}"

    @property
    def component(self) -> str:
        """The network that the linears are in: the UNet, or a text encoder."""
        return TEXT_PARTS.get(self.part, "unet")

    @property
    def layers(self) -> tuple[str, ...]:
        """The full names of the modules, as LoRAs have them: `unet.…to_q`."""
        return tuple(f"{self.component}.{module}" for module in self.modules)

    @property
    def down(self) -> str:
        """The name of the group's `down` factors (N, R, in), an input of the hypernetwork and of the UNet."""
        return f"{ADAPTER}{self.name}_down"

    @property
    def up(self) -> str:
        """The name of the group's `up` factors (N, out, R)."""
        return f"{ADAPTER}{self.name}_up"

    @property
    def coefficients(self) -> str:
        """The name of the group's coefficients, (N, K, in) of one image and (B, N, K, in) of a batch."""
        return f"{COEFFICIENTS}{self.name}"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of attention linears in the group, which are none outside the attention."""
        return tuple(kind for kind in KINDS if any(kind_of(module) == kind for module in self.modules))


@dataclass(frozen=True, repr=False)
class Layout:
    """The ordered groups of a base's linears that take LoRAs: by part, then by width.

    It is the contract between training, exports and phones. `load_layout` makes the one of a base.
    """

    base: str  # the base's name
    groups: tuple[Group, ...]

    def __repr__(self) -> str:
        return f"Layout({self.base}: {len(self.groups)} groups, {len(self.modules)} modules)"

    @classmethod
    def from_linears(cls, base: str, linears: Iterable[tuple[str, int, int]], adapt: str = "attention") -> Layout:
        """Group triples (module name, in_features, out_features), given in `named_modules()` order.

        `adapt` is a key of ADAPT. Raises InputError for another one, and where there is no attention linear.
        """
        if not isinstance(adapt, str) or adapt not in ADAPT:
            raise InputError(f"`adapt` is {adapt!r}; valid are {' and '.join(ADAPT)}")
        found: dict[tuple[str, int, int], list[str]] = {}
        for name, in_features, out_features in linears:
            part = part_of(name)
            if part in ADAPT[adapt]:
                found.setdefault((part, in_features, out_features), []).append(name)
        if not any(part in ADAPT["attention"] for part, *_ in found):
            raise InputError(f"{base} has no attention linears (to_q, to_k, to_v, to_out.0), so nothing can be merged")
        order = sorted(found, key=lambda key: (list(PARTS).index(key[0]), key[1], key[2]))
        return cls(base, tuple(Group(*key, modules=tuple(found[key])) for key in order))

    def with_text_encoder(self, part: str, linears: Iterable[tuple[str, int, int]]) -> Layout:
        """Return this layout with the linears of a text encoder too, given as to `from_linears`.

        `part` is a key of TEXT_PARTS.
        """
        found: dict[tuple[int, int], list[str]] = {}
        for name, in_features, out_features in linears:
            found.setdefault((in_features, out_features), []).append(name)
        groups = tuple(Group(part, *sizes, modules=tuple(found[sizes])) for sizes in sorted(found))
        return Layout(self.base, (*self.groups, *groups))

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of the UNet's modules, group by group."""
        return tuple(module for group in self.of("unet") for module in group.modules)

    @property
    def layers(self) -> tuple[str, ...]:
        """The full names of all modules, group by group."""
        return tuple(layer for group in self.groups for layer in group.layers)

    @property
    def places(self) -> dict[str, tuple[Group, int]]:
        """The group and the row in it of each layer, by its full name."""
        return {layer: (group, row) for group in self.groups for row, layer in enumerate(group.layers)}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have a group, in their order."""
        return tuple(dict.fromkeys(group.part for group in self.groups))

    def part(self, part: str) -> tuple[Group, ...]:
        """Return the groups of a part, a key of PARTS or TEXT_PARTS."""
        return tuple(group for group in self.groups if group.part == part)

    def of(self, component: str) -> tuple[Group, ...]:
        """Return the groups of a component: `unet`, `text_encoder` or `text_encoder_2`."""
        return tuple(group for group in self.groups if group.component == component)

    def with_kinds(self, kinds: Iterable[str]) -> tuple[Group, ...]:
        """Return the groups that hold attention linears of these kinds."""
        wanted = set(kinds)
        return tuple(group for group in self.groups if wanted & set(group.kinds))

    def to_json(self, size: StackSize) -> dict[str, Any]:
        """Return the manifest's `layout` object for stacks of a size."""
        groups = [
            {"name": group.name, "in": group.in_features, "out": group.out_features, "modules": list(group.modules)}
            for group in self.groups
        ]
        return {"loras": size.loras, STACKED_RANK: size.rank, "groups": groups}

    @classmethod
    def from_json(cls, base: str, data: Mapping[str, Any]) -> Layout:
        """Read the manifest's `layout` object back. Raises InputError when its groups contradict their names."""
        groups = []
        for entry in data["groups"]:
            part = str(entry["name"]).partition("_")[0]
            group = Group(part, int(entry["in"]), int(entry["out"]), tuple(entry["modules"]))
            if part not in (*PARTS, *TEXT_PARTS) or group.name != entry["name"]:
                raise InputError(f"layout group {entry['name']!r} does not match its sizes; export the bundle again")
            groups.append(group)
        return cls(base, tuple(groups))


@dataclass(frozen=True)
class StackSize:
    """What the artifacts of a bundle have room for."""

    loras: int  # LoRAs of one stack, K
    rank: int  # its rows, R: all ranks together; the example's where the rank is free

    @property
    def named(self) -> dict[str, int]:
        """The sizes that shapes give by name."""
        return {STACKED_RANK: self.rank}


def adapter_shapes(groups: Iterable[Group]) -> dict[str, Shape]:
    """Return the shapes of a stack's factors, in the order of every artifact."""
    shapes: dict[str, Shape] = {}
    for group in groups:
        shapes[group.down] = (len(group.modules), STACKED_RANK, group.in_features)
        shapes[group.up] = (len(group.modules), group.out_features, STACKED_RANK)
    return shapes


def roles_shape(loras: int) -> dict[str, Shape]:
    """Return the shape of the roles of a stack: one-hot rows, and rows of zeros where the stack is padded."""
    return {ROLES: (STACKED_RANK, loras)}


def coefficient_shapes(groups: Iterable[Group], loras: int, batch: int | None = None) -> dict[str, Shape]:
    """Return the shapes of coefficients: of one image, or of a batch of them."""
    of_batch = () if batch is None else (batch,)
    return {group.coefficients: (*of_batch, len(group.modules), loras, group.in_features) for group in groups}


def adapter_inputs(groups: Sequence[Group], loras: int, batch: int) -> dict[str, Shape]:
    """Return the inputs of a network whose linears take LoRAs, in the order of every artifact; none without groups."""
    if not groups:
        return {}
    return roles_shape(loras) | adapter_shapes(groups) | coefficient_shapes(groups, loras, batch)


def fixed(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a shape with its named sizes replaced."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def part_of(module: str) -> str | None:
    """Return the part that a UNet module belongs to (a key of PARTS), or None when it takes no LoRA in an artifact."""
    return next((part for part, ends in PARTS.items() if module.endswith(ends)), None)


def kind_of(module: str) -> str | None:
    """Return the kind of an attention linear (a key of KINDS), or None for any other module."""
    return next((kind for kind, end in KINDS.items() if module.endswith(end)), None)


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds in the order of KINDS. Raises InputError for none, an unknown one, or one given twice."""
    given = tuple(kinds)
    if not given or len(set(given)) < len(given) or not set(given) <= set(KINDS):
        raise InputError(f"`learned` is {','.join(given)!r}; give one or more of {','.join(KINDS)}, each once")
    return tuple(kind for kind in KINDS if kind in given)
