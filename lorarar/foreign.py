"""Layers of a LoRA's file that are no plain ones: LoHa, LoKr, differences and DoRA, as LyCORIS and PEFT define them.

Shapes are checked before a tensor is read, since a file of kilobytes can mean a ΔW of gigabytes. Numpy only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from lorarar.errors import InputError, first_of
from lorarar.lora.dialects import CONVERT, WRAPPED, Key, TensorRole, foreign_format
from lorarar.lora.names import is_convolution
from lorarar.lora.read import Opened, configured_scale, named_twice, parse_name, read_alpha
from lorarar.lora.tensors import shorten

Shape = tuple[int, ...]
MAX_DELTA = 2**25  # elements of one ΔW; SDXL's widest convolution has 2^24.8
_PARTS = re.compile(
    r"(?P<module>.+?)\.(?P<part>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](_[ab])?|lokr_t2|diff|diff_b|dora_scale"
    r"|lora_magnitude_vector(\.default)?(\.weight)?)"
)
"""The name of a tensor that belongs to a layer of another kind, and what part of it the tensor is."""
_BIAS, _ALPHA = "diff_b", "alpha"
_MAGNITUDES = ("lora_magnitude_vector", "dora_scale")  # PEFT's and LyCORIS's
_KINDS = {"hada": "LoHa", "lokr": "LoKr", "diff": "difference"}  # by what a part's name begins with


class _Matrix(NamedTuple):
    """An array that is made of tensors which are not read yet."""

    shape: Shape
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class ForeignLayer:
    """One layer of another kind: its tensors by part, `alpha` among them.

    Without a `kind` of its own it is the magnitude of a plain layer, which makes that a DoRA.
    """

    opened: Opened
    key: Key
    parts: dict[str, str] = field(default_factory=dict)  # part → tensor's name

    @property
    def kind(self) -> str:
        """LoHa, LoKr or difference, or "" of a magnitude alone."""
        return next((_KINDS[part[:4]] for part in self.parts if part[:4] in _KINDS), "")

    @property
    def is_dora(self) -> bool:
        """Whether its ΔW depends on the base's weight."""
        return any(part in self.parts for part in _MAGNITUDES)

    @property
    def lacks_alpha(self) -> bool:
        """Whether it has no alpha, where its kind may have one."""
        return self.kind in ("LoHa", "LoKr") and _ALPHA not in self.parts

    @property
    def lacks_scale(self) -> bool:
        """Whether it is of PEFT's own weights, and their configuration, which has its scale, is not there."""
        return self.lacks_alpha and not self.opened.scalings and self.key.raw.startswith(WRAPPED)

    def add(self, part: str, name: str) -> None:
        """Take a tensor as a part. Raises InputError for a second one, and for one of another kind of layer."""
        if part in self.parts:
            raise named_twice(self.opened.file.source, self.parts[part], name)
        if part in _MAGNITUDES and self.is_dora:
            raise self.twofold("lora_magnitude_vector", "dora_scale")
        kind = _KINDS.get(part[:4], "")
        if kind and self.kind not in ("", kind):
            raise self.twofold(self.kind, kind)
        self.parts[part] = name

    def error(self, fault: str) -> InputError:
        """Make the error for a fault of the layer."""
        return InputError(f"{self.opened.file.source}: {self.key.module} {fault}; get the file again")

    def twofold(self, first: str, second: str) -> InputError:
        """Make the error for two updates of one module, of which one would be lost."""
        return InputError(
            f"{self.opened.file.source}: {self.key.module} has two updates, {first} and {second}, where it may have "
            "one; remove one of them"
        )

    def delta(self) -> Float32[np.ndarray, "out inp *kernel"]:
        """Form ΔW, without what DoRA makes of it. Raises InputError for parts that don't fit together."""
        made = {"LoHa": _loha, "LoKr": _lokr}.get(self.kind, _difference)(self)
        shape, scale = self.weight_shape(made.shape), np.float32(self._scale())
        return (made.read() * scale).reshape(shape)

    def weight_shape(self, shape: Shape) -> Shape:
        """Return the shape of the module's weight for a ΔW of `shape`: a convolution's may be stored as a matrix, a
        linear's as a 1×1 convolution. InputError for a ΔW that is none or too large.
        """
        if len(shape) not in (2, 4) or 0 in shape:
            raise self.error(f"has a ΔW of shape {shape}")
        self.check_size(shape)
        convolution = is_convolution(self.key.module)
        if len(shape) == 4:
            if not convolution and shape[2:] != (1, 1):
                raise self.error(f"is linear and has a convolution's ΔW, of shape {shape}")
            return shape if convolution else shape[:2]
        side = (1 if self.key.module.endswith("conv_shortcut") else 3) if convolution else 1  # SDXL has no others
        if shape[1] % side**2:
            raise self.error(f"has a ΔW of shape {shape}, which is none of a {side}×{side} convolution")
        return (shape[0], shape[1] // side**2, side, side) if convolution else shape

    def check_size(self, shape: Shape) -> None:
        """Refuse an array that is larger than any weight of SDXL, before it is made."""
        if math.prod(shape) > MAX_DELTA:
            raise InputError(
                f"{self.opened.file.source}: {self.key.module} means an array of shape {shape}, too large for a layer "
                "of SDXL; this is another kind of file"
            )

    def _scale(self) -> float:
        """Return alpha/rank. LyCORIS, whose files have alphas, scales no LoKr of two whole factors; PEFT does."""
        if self.kind == _KINDS["diff"]:
            return 1.0
        ranks = {self.shape_of(part)[0] for part in self.parts if part.endswith("_b")}
        if len(ranks) > 1:
            raise self.error(f"has factors of the ranks {sorted(ranks)}, which must be equal")
        rank = next(iter(ranks), None)
        if _ALPHA not in self.parts:
            return configured_scale(self.opened, self.key, rank)
        return 1.0 if rank is None else read_alpha(self.opened.file, self.parts[_ALPHA]) / rank

    def shape_of(self, part: str) -> Shape:
        """Return the shape of a part. Raises InputError where the layer has none of it."""
        if part not in self.parts:
            raise self.error(f"has no {part}, which its other tensors need")
        return self.opened.file.entries[self.parts[part]].shape

    def read(self, part: str) -> Float[np.ndarray, "..."]:
        """Read a part in float32."""
        return self.opened.file.tensor(self.parts[part])


@dataclass(frozen=True)
class Apart:
    """A file's tensors, apart: those of plain layers, the other layers by module, and differences of biases."""

    plain: Opened
    layers: Mapping[str, ForeignLayer]
    biases: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a LoRA can't hold and is left out."""
        if not self.biases:
            return ()
        shown = first_of([f"'{shorten(name)}'" for name in self.biases])
        source = self.plain.file.source
        return (f"{source}: a LoRA holds no differences of biases; {len(self.biases)} are left out ({shown})",)


def take_apart(opened: Opened) -> Apart:
    """Tell the layers of other kinds from the plain ones.

    Raises InputError for one of an unknown module, and for a module with two updates.
    """
    layers: dict[str, ForeignLayer] = {}
    taken: dict[str, re.Match[str]] = {
        name: match for name in opened.file.entries if (match := _PARTS.fullmatch(name)) is not None
    }
    biases = tuple(name for name, match in taken.items() if match["part"] == _BIAS)
    for name, match in taken.items():
        if match["part"] != _BIAS:
            key = _key(opened, match["module"], name)
            layers.setdefault(key.module, ForeignLayer(opened, key)).add(match["part"].partition(".")[0], name)
    kept = {name: entry for name, entry in opened.file.entries.items() if name not in taken}
    for name in list(kept):
        if (foreign := foreign_format(name)) and CONVERT in foreign.advice:  # which reading would advise
            raise InputError(
                f"{opened.file.source}: '{shorten(name)}' is no part of a {foreign.name} layer that is known; get the "
                "file again"
            )
        known = parse_name(opened, name)
        layer = layers.get(known.module) if known else None
        if known is None or layer is None or not layer.kind:
            continue
        if known.role is not TensorRole.ALPHA:
            raise layer.twofold(layer.kind, "a plain LoRA")
        layer.add(_ALPHA, name)
        del kept[name]
    plain = replace(opened.file, entries=kept)
    return Apart(opened._replace(file=plain), layers, biases)


def _key(opened: Opened, module: str, name: str) -> Key:
    """Understand the name of a module. PEFT's words are tried first, since its configuration is for their names."""
    key = parse_name(opened, f"{module}.lora_A.weight", name) or parse_name(opened, f"{module}.alpha", name)
    if key is None:
        raise InputError(
            f"{opened.file.source}: '{shorten(name)}' is of no module of SDXL that is known; remove it or use another "
            "file"
        )
    return key


def _difference(layer: ForeignLayer) -> _Matrix:
    return _Matrix(layer.shape_of("diff"), lambda: layer.read("diff"))


def _loha(layer: ForeignLayer) -> _Matrix:
    """Return (w1_a w1_b) ⊙ (w2_a w2_b); with t1 and t2 each product is a Tucker convolution."""
    one, two = (_product(layer, f"hada_w{number}", f"hada_t{number}") for number in (1, 2))
    if one.shape != two.shape:
        raise layer.error(f"has products of the shapes {one.shape} and {two.shape}, which do not fit together")
    return _Matrix(one.shape, lambda: one.read() * two.read())


def _lokr(layer: ForeignLayer) -> _Matrix:
    """Return kron(w1, w2), where w1 and w2 may be products."""
    one, two = _side(layer, 1), _side(layer, 2)
    if len(one.shape) != 2 or len(two.shape) not in (2, 4):
        raise layer.error(f"has factors of the shapes {one.shape} and {two.shape}, which do not fit together")
    shape = (one.shape[0] * two.shape[0], one.shape[1] * two.shape[1], *two.shape[2:])
    ones = (1,) * (len(two.shape) - 2)
    return _Matrix(shape, lambda: np.kron(one.read().reshape(*one.shape, *ones), two.read()))


def _side(layer: ForeignLayer, number: int) -> _Matrix:
    whole, core = f"lokr_w{number}", f"lokr_t{number}"
    if whole not in layer.parts:
        return _product(layer, whole, core)
    others = {f"{whole}_a", f"{whole}_b", core} & layer.parts.keys()
    if others:
        raise layer.twofold(whole, first_of(sorted(others)))
    return _Matrix(layer.shape_of(whole), lambda: layer.read(whole))


def _product(layer: ForeignLayer, name: str, core: str) -> _Matrix:
    """Return a·b, where b may be a convolution's; with a core, the Tucker convolution of the three."""
    a, b = layer.shape_of(f"{name}_a"), layer.shape_of(f"{name}_b")
    if core in layer.parts:
        between = layer.shape_of(core)
        fits = len(a) == len(b) == 2 and len(between) == 4 and between[:2] == (a[0], b[0])
    else:
        between = ()
        fits = len(a) == 2 and len(b) in (2, 4) and a[1] == b[0]
    if not fits or 0 in (*a, *b, *between):
        shapes = ", ".join(map(str, (a, b, between) if core in layer.parts else (a, b)))
        raise layer.error(f"has factors {name} of the shapes {shapes}, which do not fit together")
    if not between:
        return _Matrix(
            (a[0], *b[1:]),
            lambda: (layer.read(f"{name}_a") @ layer.read(f"{name}_b").reshape(b[0], -1)).reshape(a[0], *b[1:]),
        )
    layer.check_size((a[0], b[1], *between[2:]))

    def tucker() -> np.ndarray:
        half = np.einsum("ijkl,jr->irkl", layer.read(core), layer.read(f"{name}_b"), optimize=True)
        made: np.ndarray = np.einsum("irkl,ip->prkl", half, layer.read(f"{name}_a"), optimize=True)
        return made

    return _Matrix((a[1], b[1], *between[2:]), tucker)
