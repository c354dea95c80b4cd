"""Layouts (the ordered groups of a UNet's attention linears) and adapters (a LoRA packed in one). Numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorarar.errors import InputError, first_of
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.layers import balance_factor, peak

KINDS = {"q": ".to_q", "k": ".to_k", "v": ".to_v", "out": ".to_out.0"}
"""The kinds of attention linears, and how their module names end."""

# Part → the ends of the module names it holds (paper §3.3: query and output are learned, key and value averaged).
PARTS: dict[str, tuple[str, ...]] = {"qo": (KINDS["q"], KINDS["out"]), "kv": (KINDS["k"], KINDS["v"])}
PAPER_LEARNED = ("q", "out")
"""The kinds whose coefficients the paper predicts; the other 14 choices are its Table A3."""
UNET = "unet."

Shape = tuple[int | str, ...]
"""A shape; a name in it (`content_rank`) is a size that may differ from run to run, where the target allows it."""

ROLES = ("content", "style")
SCALES = ("content_scale", "style_scale")

Adapter = dict[str, np.ndarray]
"""`{group}_down` (N, rank, in) and `{group}_up` (N, out, rank) for every group of a layout."""


@dataclass(frozen=True, repr=False)
class Group:
    """The attention linears of one part and one weight shape (out, in), in `named_modules()` order."""

    part: str
    in_features: int
    out_features: int
    modules: tuple[str, ...]  # names inside the UNet, without `unet.`

    def __repr__(self) -> str:
        return f"Group({self.name}: {len(self.modules)} modules)"

    @property
    def name(self) -> str:
        """The name, which holds the part and the sizes: `qo_640x640`."""
        return f"{self.part}_{self.in_features}x{self.out_features}"

    @property
    def down(self) -> str:
        """The name of the group's `down` factors in an adapter."""
        return f"{self.name}_down"

    @property
    def up(self) -> str:
        """The name of the group's `up` factors in an adapter."""
        return f"{self.name}_up"


@dataclass(frozen=True, repr=False)
class Layout:
    """The ordered groups of a base's attention linears: learned parts first, then by width.

    It is the contract between training, exports and phones. `load_layout` makes the one of a base.
    """

    base: str  # the base's name
    groups: tuple[Group, ...]

    def __repr__(self) -> str:
        return f"Layout({self.base}: {len(self.groups)} groups, {len(self.modules)} modules)"

    @classmethod
    def from_linears(cls, base: str, linears: Iterable[tuple[str, int, int]]) -> Layout:
        """Group triples (module name, in_features, out_features), given in `named_modules()` order."""
        found: dict[tuple[str, int, int], list[str]] = {}
        for name, in_features, out_features in linears:
            part = part_of(name)
            if part is not None:
                found.setdefault((part, in_features, out_features), []).append(name)
        if not found:
            raise InputError(f"{base} has no attention linears (to_q, to_k, to_v, to_out.0), so nothing can be merged")
        order = sorted(found, key=lambda key: (list(PARTS).index(key[0]), key[1], key[2]))
        return cls(base, tuple(Group(*key, modules=tuple(found[key])) for key in order))

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all modules inside the UNet, group by group."""
        return tuple(module for group in self.groups for module in group.modules)

    def part(self, part: str) -> tuple[Group, ...]:
        """Return the groups of a part, `qo` or `kv`."""
        return tuple(group for group in self.groups if group.part == part)

    def to_json(self, rank: int) -> dict[str, Any]:
        """Return the manifest's `layout` object; `rank` is that of the artifacts' inputs."""
        groups = []
        for group in self.groups:
            sizes = {"in": group.in_features, "out": group.out_features, "rank": rank}
            groups.append({"name": group.name, **sizes, "modules": list(group.modules)})
        return {"groups": groups}

    @classmethod
    def from_json(cls, base: str, data: Mapping[str, Any]) -> Layout:
        """Read the manifest's `layout` object back. Raises InputError when its groups contradict their names."""
        groups = []
        for entry in data["groups"]:
            part = str(entry["name"]).partition("_")[0]
            group = Group(part, int(entry["in"]), int(entry["out"]), tuple(entry["modules"]))
            if part not in PARTS or group.name != entry["name"]:
                raise InputError(f"layout group {entry['name']!r} does not match its sizes; export the bundle again")
            groups.append(group)
        return cls(base, tuple(groups))


def input_shapes(layout: Layout) -> dict[str, Shape]:
    """Return the merger's inputs, in the order of every artifact: each role's factors, then the scales."""
    shapes: dict[str, Shape] = {}
    for group in layout.groups:
        count = len(group.modules)
        for role in ROLES:
            shapes[f"{role}_{group.down}"] = (count, f"{role}_rank", group.in_features)
            shapes[f"{role}_{group.up}"] = (count, group.out_features, f"{role}_rank")
    # Of shape (1,), not (): Core ML has no scalars.
    return shapes | dict.fromkeys(SCALES, (1,))


def adapter_shapes(layout: Layout) -> dict[str, Shape]:
    """Return the merged adapter's tensors, outputs of the merger and inputs of the UNet by the same names."""
    shapes: dict[str, Shape] = {}
    for group in layout.groups:
        shapes[f"adapter_{group.down}"] = (len(group.modules), "merged_rank", group.in_features)
        shapes[f"adapter_{group.up}"] = (len(group.modules), group.out_features, "merged_rank")
    return shapes


def output_shapes(layout: Layout) -> dict[str, Shape]:
    """Return the merger's outputs, in the order of every artifact: the merged adapter, then the coefficients."""
    learned: dict[str, Shape] = {
        f"coefficients_{group.name}": (len(group.modules), 2, group.in_features) for group in layout.part("qo")
    }
    return adapter_shapes(layout) | learned


def rank_sizes(rank: int) -> dict[str, int]:
    """Return the sizes that shapes give by name, where both LoRAs have `rank`."""
    return {"content_rank": rank, "style_rank": rank, "merged_rank": 2 * rank}


def fixed(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a shape with its named sizes replaced."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in shape)


def part_of(module: str) -> str | None:
    """Return the part that a UNet module belongs to, or None when it is no attention linear."""
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


@dataclass(frozen=True)
class Packed:
    """An adapter and the layers that it could not carry."""

    adapter: Adapter
    left_out: tuple[str, ...]  # layers outside the layout, by full name
    left_out_share: float  # their share of the LoRA's whole ‖ΔW‖²

    def warning(self) -> str | None:
        """Return one sentence about the layers left out, or None when the adapter carries the whole LoRA."""
        if not self.left_out:
            return None
        return (
            f"{len(self.left_out)} layers are outside the attention linears and not in the adapter "
            f"({first_of(self.left_out)}); they hold {self.left_out_share:.1%} of the LoRA's squared norm"
        )


def pack(lora: LoRA, layout: Layout, rank: int | None = None, dtype: Any = np.float32) -> Packed:
    """Pack a LoRA into an adapter of `layout`; shorter ranks and missing layers are zero-padded, which is exact.

    In half precision each layer's factors are balanced, which leaves ΔW as it is and keeps it in range.
    Raises InputError when a layer's shape is not the base's, when a rank exceeds `rank`, when no layer fits, or when
    `dtype` is half precision and a factor overflows in it.
    """
    width = lora.max_rank if rank is None else rank
    adapter: Adapter = {}
    used = 0
    for group in layout.groups:
        down = np.zeros((len(group.modules), width, group.in_features), dtype)
        up = np.zeros((len(group.modules), group.out_features, width), dtype)
        for row, module in enumerate(group.modules):
            layer = lora.layers.get(UNET + module)
            if layer is None:
                continue
            _check_layer(layer, module, group, layout.base, width, lora.source)
            used += 1
            factor = balance_factor(peak(layer.down), peak(layer.up)) if dtype != np.float32 else np.float32(1)
            with np.errstate(over="ignore"):  # an overflow is told below, once
                down[row, : layer.rank], up[row, :, : layer.rank] = layer.down * factor, layer.up / factor
        if not (np.isfinite(down).all() and np.isfinite(up).all()):
            raise InputError(f"{lora.source}: a factor in {group.name} is too large for half precision; use fp32")
        adapter[group.down], adapter[group.up] = down, up
    if not used:
        raise InputError(
            f"{lora.source}: none of its {len(lora.layers)} layers is an attention linear of {layout.base}; "
            "it was made for another base model"
        )
    known = {UNET + module for module in layout.modules}
    left_out = tuple(name for name in lora.layers if name not in known)
    outside = sum(lora.layers[name].squared_norm() for name in left_out)
    whole = sum(layer.squared_norm() for layer in lora.layers.values()) if outside else 1.0
    return Packed(adapter, left_out, outside / whole)


def unpack(adapter: Mapping[str, np.ndarray], layout: Layout) -> LoRA:
    """Return the LoRA that an adapter means, in float32. Raises InputError on a wrong name or shape."""
    layers: dict[str, LoraLayer] = {}
    for group in layout.groups:
        if group.down not in adapter or group.up not in adapter:
            raise InputError(f"the adapter has no {group.down} and {group.up}; it was packed for another base")
        down, up = np.asarray(adapter[group.down]), np.asarray(adapter[group.up])
        rank = down.shape[1] if down.ndim == 3 else 0
        count = len(group.modules)
        if down.shape != (count, rank, group.in_features) or up.shape != (count, group.out_features, rank):
            raise InputError(f"{group.name} has shapes {down.shape}, {up.shape}, which are not those of {layout.base}")
        for row, module in enumerate(group.modules):
            layers[UNET + module] = LoraLayer(down[row].astype(np.float32), up[row].astype(np.float32))
    return LoRA(layers, dialect="adapter")


def _check_layer(layer: LoraLayer, module: str, group: Group, base: str, rank: int, source: str) -> None:
    want = (group.out_features, group.in_features)
    have = layer.weight_shape
    if have != want:
        raise InputError(f"{source}: {module} has shape {have}, {base} has {want}; the LoRA is for another base model")
    if layer.rank > rank:
        raise InputError(
            f"{source}: {module} has rank {layer.rank}, more than {rank}; export with a `rank` of {layer.rank}"
        )
