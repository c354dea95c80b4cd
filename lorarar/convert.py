"""Make a plain LoRA of a file that is none: LoHa, LoKr, whole differences and DoRA, cut to a rank by SVD.

Every layer's ΔW is formed as LyCORIS and PEFT define it, and cut to the nearest of a rank; what is lost is told. A
plain layer beside them is kept as it is, or cut where its rank is larger. Imports torch when called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError, first_of
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.dialects import parse_key
from lorarar.lora.names import is_convolution
from lorarar.lora.peft_config import metadata_scalings
from lorarar.lora.read import build_lora
from lorarar.lora.safetensors_file import open_safetensors
from lorarar.lora.tensors import FLOATS, INTEGERS, Tensors, shorten, state_dict_tensors
from lorarar.merging.truncate import cut, resize, shrink
from lorarar.merging.types import Truncated, Truncation
from lorarar.settings import check_at_least

Weights = Callable[[str], np.ndarray | None]
"""The base's weight of a module by its full name, in float32; None where the base has no such module."""

_PARTS = re.compile(
    r"(?P<module>.+?)\.(?P<part>hada_w[12]_[ab]|hada_t[12]|lokr_w[12](_[ab])?|lokr_t2|diff|diff_b|dora_scale"
    r"|lora_magnitude_vector(\.default)?(\.weight)?)"
)
"""The name of a tensor that belongs to a layer of another kind, and what part of it the tensor is."""
_BIAS = "diff_b"


def convert(
    source: str | PathLike[str] | Mapping[str, Any], rank: int, weights: Weights | None = None, name: str = "state dict"
) -> LoRA:
    """Read a file or state dict of LoHa, LoKr, DoRA or difference layers as a plain LoRA of at most `rank`.

    `weights` gives the base's weights, which only DoRA needs. What is lost is the last of the result's `warnings`.
    Raises InputError as `lorarar.read_lora` for what can't be read, and for a DoRA layer without the base's weight.
    """
    check_at_least(1, rank=rank)
    file = state_dict_tensors(source, name) if isinstance(source, Mapping) else open_safetensors(Path(source))
    found = _Foreign.of(file)
    plain = (
        build_lora(found.plain, "", metadata_scalings(file.metadata, file.source))
        if found.plain.entries or not found.parts
        else LoRA({}, source=file.source, metadata=file.metadata)
    )
    layers, losses = dict(plain.layers), {}
    for module in found.parts:
        layers[module], losses[module] = _converted(found, module, layers.get(module), rank, weights)
    if not losses:
        return resize(plain, rank)
    for module in layers.keys() - losses.keys():
        if layers[module].rank > rank:
            layers[module], losses[module] = shrink(layers[module], rank)
    told = [*plain.warnings, *found.warnings(), _told(file.source, losses, rank)]
    return replace(plain, layers=layers, dialect="converted", warnings=tuple(told))


def _told(source: str, losses: Mapping[str, Truncated], rank: int) -> str:
    """Say what was lost."""
    lost = Truncation.of(losses)
    assert lost is not None
    return (
        f"{source}: {lost.layers} layers were made plain, of rank {rank} at most; ΔW changed by {lost.overall:.1%}, at "
        f"most by {lost.worst:.1%} ({lost.worst_layer})"
    )


@dataclass(frozen=True)
class _Foreign:
    """The tensors of a file, apart: those of plain layers, and those of others by module and part."""

    file: Tensors
    plain: Tensors
    parts: Mapping[str, Mapping[str, str]]  # full module name → part → tensor's name
    alphas: Mapping[str, str]
    biases: tuple[str, ...]

    @classmethod
    def of(cls, file: Tensors) -> _Foreign:
        parts: dict[str, dict[str, str]] = {}
        alphas: dict[str, str] = {}
        biases: list[str] = []
        for name in file.entries:
            match = _PARTS.fullmatch(name)
            if match is None:
                continue
            if match["part"] == _BIAS:
                biases.append(name)
                continue
            module = _module(file.source, match["module"], name)
            parts.setdefault(module, {})[match["part"].split(".")[0]] = name
            if (alpha := f"{match['module']}.alpha") in file.entries:
                alphas[module] = alpha
        # The alpha of a DoRA layer is its plain factors' own.
        taken = {alpha for module, alpha in alphas.items() if not _is_dora(parts[module])}
        taken |= {name for own in parts.values() for name in own.values()} | set(biases)
        kept = {name: entry for name, entry in file.entries.items() if name not in taken}
        return cls(file, replace(file, entries=kept), parts, alphas, tuple(biases))

    def warnings(self) -> tuple[str, ...]:
        """Name what a LoRA can't hold."""
        if not self.biases:
            return ()
        shown = first_of([f"'{shorten(name)}'" for name in self.biases])
        return (
            f"{self.file.source}: a LoRA holds no differences of biases; {len(self.biases)} are left out ({shown})",
        )

    def read(self, module: str, part: str) -> Float[np.ndarray, "..."] | None:
        """Return a part in float32; None where the layer has none of it."""
        name = self.parts[module].get(part)
        return None if name is None else self.file.tensor(name)

    def scale(self, module: str, rank: int) -> float:
        """Return alpha/rank, or 1 without an alpha."""
        alpha = self.alphas.get(module)
        return 1.0 if alpha is None else float(self.file.tensor(alpha, (*FLOATS, *INTEGERS)).reshape(())) / rank


def _module(source: str, given: str, name: str) -> str:
    key = parse_key(f"{given}.alpha", "") or parse_key(f"{given}.lora_A.weight", "")
    if key is None:
        raise InputError(
            f"{source}: '{shorten(name)}' is of no module of SDXL that is known; remove it or use another file"
        )
    return key.module


def _is_dora(parts: Mapping[str, str]) -> bool:
    return bool({"dora_scale", "lora_magnitude_vector"} & parts.keys())


def _converted(
    found: _Foreign, module: str, plain: LoraLayer | None, rank: int, weights: Weights | None
) -> tuple[LoraLayer, Truncated]:
    """Form one layer's ΔW and cut it."""
    try:
        delta = _delta(found, module, plain, weights)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{found.file.source}: the tensors of {module} do not fit together ({error}); get the file again"
        ) from None
    if delta.ndim not in (2, 4):
        raise InputError(f"{found.file.source}: {module} has a ΔW of shape {delta.shape}; get the file again")
    if not np.isfinite(delta).all():
        raise InputError(f"{found.file.source}: ΔW of {module} is not finite; the file is damaged, get it again")
    return cut(np.ascontiguousarray(delta.reshape(len(delta), -1), np.float32), rank, delta.shape)


def _delta(found: _Foreign, module: str, plain: LoraLayer | None, weights: Weights | None) -> np.ndarray:
    """Form one layer's ΔW."""
    parts = found.parts[module]
    if plain is not None:
        delta: np.ndarray | None = plain.delta()
    elif any(part.startswith("hada") for part in parts):
        delta = _loha(found, module)
    elif any(part.startswith("lokr") for part in parts):
        delta = _lokr(found, module)
    else:
        delta = found.read(module, "diff")
    if delta is None:
        raise InputError(f"{found.file.source}: {module} has a scale of DoRA and no factors; get the file again")
    if delta.ndim == 2 and is_convolution(module):
        side = 1 if module.endswith("conv_shortcut") else 3  # SDXL has no other kernels
        delta = delta.reshape(len(delta), -1, side, side)
    return _dora(found, module, delta, weights) if _is_dora(parts) else delta


def _need(found: _Foreign, module: str, part: str) -> np.ndarray:
    tensor = found.read(module, part)
    if tensor is None:
        raise InputError(
            f"{found.file.source}: {module} has no {part}, which its other tensors need; get the file again"
        )
    return tensor


def _product(a: np.ndarray, b: np.ndarray, core: np.ndarray | None) -> np.ndarray:
    """Return a·b, where b may be a convolution's; with a core, the Tucker convolution of the three."""
    if core is not None:
        return np.einsum("ijkl,jr,ip->prkl", core, b, a)
    return (a @ b.reshape(len(b), -1)).reshape(len(a), *b.shape[1:])


def _loha(found: _Foreign, module: str) -> np.ndarray:
    """Return (w1_a w1_b) ⊙ (w2_a w2_b) · alpha/rank; with t1 and t2 each product is a Tucker convolution."""
    sides = []
    for number in (1, 2):
        a, b = _need(found, module, f"hada_w{number}_a"), _need(found, module, f"hada_w{number}_b")
        core = found.read(module, f"hada_t{number}")
        sides.append(_product(a, b, core))
    rank = _need(found, module, "hada_w1_b").shape[0]
    return sides[0] * sides[1] * np.float32(found.scale(module, rank))


def _lokr(found: _Foreign, module: str) -> np.ndarray:
    """Return kron(w1, w2) · alpha/rank, where w1 and w2 may be products; two whole factors have no scale."""
    rank = None
    sides = []
    for number in (1, 2):
        whole = found.read(module, f"lokr_w{number}")
        if whole is None:
            a, b = _need(found, module, f"lokr_w{number}_a"), _need(found, module, f"lokr_w{number}_b")
            core = found.read(module, "lokr_t2") if number == 2 else None
            rank = b.shape[0]
            whole = _product(a, b, core)
        sides.append(whole)
    one, two = sides
    if two.ndim == 4:
        one = one[:, :, None, None]
    return np.kron(one, two) * np.float32(1.0 if rank is None else found.scale(module, rank))


def _dora(found: _Foreign, module: str, delta: np.ndarray, weights: Weights | None) -> np.ndarray:
    """Return m·(W + ΔW)/‖W + ΔW‖ − W; the norm is that of each output, or, as LyCORIS has it, of each input."""
    weight = None if weights is None else weights(module)
    if weight is None:
        raise InputError(
            f"{found.file.source}: {module} is a DoRA, whose ΔW depends on the base's weights; give the base it is for"
        )
    if weight.shape != delta.shape:
        raise InputError(
            f"{found.file.source}: {module} has shape {delta.shape}, its base {weight.shape}; give its base"
        )
    magnitude = found.read(module, "dora_scale")
    magnitude = _need(found, module, "lora_magnitude_vector") if magnitude is None else magnitude
    whole = (weight + delta).astype(np.float64)
    by_output = magnitude.size == len(whole) and (magnitude.ndim == 1 or magnitude.shape[0] == len(whole))
    axes = tuple(axis for axis in range(whole.ndim) if axis != (0 if by_output else 1))
    norm = np.sqrt(np.sum(np.square(whole), axis=axes, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        turned = whole * (magnitude.astype(np.float64).reshape(norm.shape) / norm)
    return (turned - weight).astype(np.float32)
