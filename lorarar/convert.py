"""Make a plain LoRA of a file that is none: LoHa, LoKr, whole differences and DoRA, cut to a rank by SVD.

Every layer's ΔW is formed as LyCORIS and PEFT define it, and cut to the nearest of a rank; what is lost is told. A
plain layer beside them is kept as it is, or cut where its rank is larger. Imports torch when called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from jaxtyping import Float32

from lorarar.errors import InputError
from lorarar.foreign import ForeignLayer, take_apart
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.read import open_source, plain_layers, unscaled
from lorarar.merging.truncate import cut, resize, shrink
from lorarar.merging.types import Truncated, Truncation
from lorarar.settings import check_at_least

Weights = Callable[[str], np.ndarray | None]
"""The base's weight of a module by its full name, in float32; None where the base has no such module."""

_LARGEST = 1e15  # of ΔW, which an SVD in float32 takes; a base's weights are about 1


def convert(
    source: str | PathLike[str] | Mapping[str, Any],
    rank: int,
    weights: Weights | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    name: str = "state dict",
) -> LoRA:
    """Read a file, PEFT folder or state dict of LoHa, LoKr, DoRA or differences as a plain LoRA of at most `rank`.

    `weights` gives the base's weights, for DoRA alone. `config` and `name` are those of `lorarar.read_lora`. What
    is lost is the last of the result's `warnings`. Raises InputError as `lorarar.read_lora` for what can't be read, and
    for a DoRA layer without the base's weight.
    """
    check_at_least(1, rank=rank)
    apart = take_apart(open_source(source, config=config, name=name, plain=False))
    plain = plain_layers(apart.plain, {module: layer.lacks_alpha for module, layer in apart.layers.items()})
    dora = [layer for name, layer in apart.layers.items() if layer.is_dora and (layer.kind or name in plain.layers)]
    if dora:
        _base_weight(dora[0], weights)  # before the SVDs, which take minutes: a base is opened by its first weight
    layers, losses = dict(plain.layers), {}
    for module, layer in apart.layers.items():
        layers[module], losses[module] = _converted(layer, layers.get(module), rank, weights)
    if not losses:
        return resize(replace(plain, warnings=(*plain.warnings, *apart.warnings)), rank)
    for module in [name for name in layers if name not in losses]:  # in order: a tie names the first
        if layers[module].rank > rank:
            layers[module], losses[module] = shrink(layers[module], rank)
    own = [unscaled(plain.source)] if any(layer.lacks_scale for layer in apart.layers.values()) else []
    told = [*dict.fromkeys((*plain.warnings, *own)), *apart.warnings, _told(plain.source, losses, rank)]
    return replace(plain, layers=layers, dialect="converted", warnings=tuple(told))


def has_dora(source: str | PathLike[str]) -> bool:
    """Tell whether a file or PEFT folder has a layer of DoRA. Raises InputError as `lorarar.read_lora`."""
    return any(layer.is_dora for layer in take_apart(open_source(source, plain=False)).layers.values())


def _told(source: str, losses: Mapping[str, Truncated], rank: int) -> str:
    """Say what was lost."""
    lost = Truncation.of(losses)
    assert lost is not None
    return (
        f"{source}: {lost.layers} layers were made plain or cut, to rank {rank} at most; ΔW changed by "
        f"{lost.overall:.1%}, at most by {lost.worst:.1%} ({lost.worst_layer})"
    )


def _converted(
    layer: ForeignLayer, plain: LoraLayer | None, rank: int, weights: Weights | None
) -> tuple[LoraLayer, Truncated]:
    """Form one layer's ΔW and cut it; `plain` are the factors of a plain layer, to which it has a magnitude."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if layer.kind:
            delta = layer.delta()
        elif plain is not None:
            layer.check_size(plain.weight_shape)
            delta = plain.delta()
        else:
            raise layer.error("has a magnitude of DoRA and no factors")
        if layer.is_dora:
            delta = _dora(layer, delta, weights)
        if not np.abs(delta).max() <= _LARGEST:
            raise layer.error(f"has a ΔW that is not finite or over {_LARGEST:g}, so the file is damaged")
    return cut(np.ascontiguousarray(delta.reshape(len(delta), -1)), rank, delta.shape)


def _dora(
    layer: ForeignLayer, delta: Float32[np.ndarray, "out inp *kernel"], weights: Weights | None
) -> Float32[np.ndarray, "out inp *kernel"]:
    """Return m·(W + ΔW)/‖W + ΔW‖ − W."""
    source, module = layer.opened.file.source, layer.key.module
    weight = _base_weight(layer, weights)
    if weight.shape != delta.shape:
        raise InputError(f"{source}: {module} has shape {delta.shape}, its base {weight.shape}; give its base")
    magnitude, by_output = _magnitude(layer, delta.shape)
    whole = (weight + delta).astype(np.float64)
    axes = tuple(axis for axis in range(whole.ndim) if axis != (0 if by_output else 1))
    norm = np.sqrt(np.sum(np.square(whole), axis=axes, keepdims=True))
    whole *= magnitude.astype(np.float64).reshape(norm.shape) / norm
    return (whole - weight).astype(np.float32)


def _base_weight(layer: ForeignLayer, weights: Weights | None) -> np.ndarray:
    weight = None if weights is None else weights(layer.key.module)
    if weight is None:
        raise InputError(
            f"{layer.opened.file.source}: {layer.key.module} is a DoRA, whose ΔW depends on the base's weights; give "
            "the base it is for"
        )
    return weight


def _magnitude(layer: ForeignLayer, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """Return the magnitudes, and whether they are those of the outputs: LyCORIS's alone may be those of the inputs.

    The shape alone doesn't tell: PEFT keeps a convolution's outputs in the second axis, where LyCORIS has inputs.
    """
    part = "dora_scale" if "dora_scale" in layer.parts else "lora_magnitude_vector"
    given = layer.shape_of(part)
    by_output = part != "dora_scale" or (math.prod(given) == shape[0] and given[:1] in ((), shape[:1]))
    if math.prod(given) != shape[0 if by_output else 1]:
        raise layer.error(f"has shape {shape} and a {part} of shape {given}, which do not fit together")
    return layer.read(part), by_output
