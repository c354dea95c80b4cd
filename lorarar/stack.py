"""Stacks: LoRAs in one adapter, one after the other along the rank, and the merge as coefficients. Numpy only.

Per group of a layout `down` (N, R, in) and `up` (N, out, R); `roles` (R, K) says whose row is whose. Coefficients
(N, K, in) say how much of each LoRA each column gets: ΔW = Σₖ ΔWₖ·diag(mₖ) = up·(down ⊙ (roles·m)), which is the
paper's Eq. 2. To merge is to write coefficients; no factor and no weight changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError, first_of
from lorarar.layout import MAX_LORAS, MAX_STACKED_RANK, ROLES, UNET, Group, Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.layers import fill

PART_WORDS = {
    "qo": "attention (q, out)",
    "kv": "attention (k, v)",
    "ff": "feed-forward",
    "proj": "projections",
    "te1": "text encoder",
    "te2": "text encoder 2",
}
"""The parts of a layout, in words."""

Adapter = dict[str, np.ndarray]
"""A stack's factors by the names of the artifacts' inputs, for every group of a layout."""


@dataclass(frozen=True, eq=False)
class Stack:
    """LoRAs as inputs of the hypernetwork and of the UNet."""

    layout: Layout
    adapter: Adapter
    roles: Float[np.ndarray, "rows loras"]  # one-hot, and zeros in the rows that pad
    loras: tuple[LoRA, ...]  # number k is role k; there may be fewer than roles

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The factors and the roles, by the names of the artifacts' inputs."""
        return {ROLES: self.roles, **self.adapter}

    def present(self, group: Group) -> np.ndarray:
        """Tell for each layer of a group which LoRAs have it: (N, K), True where one does."""
        found = np.zeros((len(group.modules), self.roles.shape[1]), bool)
        for number, lora in enumerate(self.loras):
            found[:, number] = [layer in lora.layers for layer in group.layers]
        return found


def stack(
    loras: Sequence[LoRA], layout: Layout, roles: int | None = None, rank: int | None = None, dtype: Any = np.float32
) -> Stack:
    """Stack LoRAs for a layout, in the order of their roles; shorter ranks and missing layers are zeros, which is
    exact.

    `roles` is the number of LoRAs that the artifacts take and `rank` the rows that they have, where these are fixed;
    both are as many as needed by default. In half precision each layer's factors are balanced, which leaves ΔW as it
    is. Raises InputError when a layer's shape is not the base's, when the LoRAs are too many or their ranks too large,
    when one has no layer of the layout, for a layer of rank 0, NaN or ∞, or when `dtype` is half precision and a factor
    overflows in it.
    """
    known = layout.places
    inside = [{name: layer for name, layer in lora.layers.items() if name in known} for lora in loras]
    ranks = [_check_fit(lora, layers, known, layout.base) for lora, layers in zip(loras, inside, strict=True)]
    count, rows = len(loras) if roles is None else roles, sum(ranks) if rank is None else rank
    _check_room(loras, ranks, count, rows)
    starts = [0, *accumulate(ranks)]
    adapter = _zeros(layout, rows, dtype)
    one_hot = np.zeros((rows, count), dtype)
    for number, layers in enumerate(inside):
        one_hot[starts[number] : starts[number + 1], number] = 1
        for name, layer in layers.items():
            group, row = known[name]
            start = starts[number]
            peaks = fill(layer, adapter[group.down][row, start:], adapter[group.up][row, :, start:])
            _check_peaks(peaks, dtype, f"{loras[number].source}: a factor of {name}")
    return Stack(layout, adapter, one_hot, tuple(loras))


def empty_stack(layout: Layout, roles: int, rank: int, dtype: Any = np.float32) -> Stack:
    """Return the stack of no LoRA, which gives the base."""
    return Stack(layout, _zeros(layout, rank, dtype), np.zeros((rank, roles), dtype), ())


def fold(
    adapter: Mapping[str, np.ndarray],
    roles: Float[np.ndarray, "rows loras"],
    coefficients: Mapping[str, Float[np.ndarray, "n loras inp"]],
    layout: Layout,
) -> LoRA:
    """Return what a stack with coefficients means, as one LoRA in float32: down ⊙ (roles·m) and up, layer by layer."""
    layers: dict[str, LoraLayer] = {}
    for group in layout.groups:
        weights = np.matmul(roles.astype(np.float32), coefficients[group.coefficients].astype(np.float32))
        down = adapter[group.down].astype(np.float32) * weights
        for row, name in enumerate(group.layers):
            layers[name] = LoraLayer(down[row], adapter[group.up][row].astype(np.float32))
    return LoRA(layers, source="stack")


@dataclass(frozen=True)
class Carried:
    """What a layout takes of a LoRA, in shares of its whole ‖ΔW‖², and what it leaves out."""

    source: str
    parts: Mapping[str, float]  # by part of the layout
    left_out: Mapping[str, tuple[int, float]]  # by what it is: the number of layers, and their share
    names: tuple[str, ...]  # of the layers left out

    @property
    def share(self) -> float:
        """The share that is carried."""
        return sum(self.parts.values())

    def warning(self) -> str | None:
        """Return one sentence about what is left out, or None when the whole LoRA is carried."""
        if not self.left_out:
            return None
        told = "; ".join(f"{count} {what}, {share:.1%}" for what, (count, share) in self.left_out.items())
        left = sum(share for _, share in self.left_out.values())
        return (
            f"{self.source}: {left:.1%} of its squared norm is in layers that this bundle can't take "
            f"({told}): {first_of(self.names)}"
        )


def carried(lora: LoRA, layout: Layout) -> Carried:
    """Measure what share of a LoRA's ‖ΔW‖² a layout carries, by part, from the factors' r×r Gram matrices."""
    places = layout.places
    norms = {name: layer.squared_norm() for name, layer in lora.layers.items()}
    whole = sum(norms.values()) or 1.0
    parts = dict.fromkeys(layout.parts, 0.0)
    left: dict[str, tuple[int, float]] = {}
    for name, norm in norms.items():
        if name in places:
            parts[places[name][0].part] += norm / whole
        else:
            what = _outside(name, lora.layers[name])
            count, share = left.get(what, (0, 0.0))
            left[what] = (count + 1, share + norm / whole)
    return Carried(lora.source, parts, left, tuple(name for name in lora.layers if name not in places))


def _outside(name: str, layer: LoraLayer) -> str:
    """Say what a layer that no layout of ours has is."""
    if not name.startswith(UNET):
        return "layers of text encoders"
    return "convolutions" if len(layer.weight_shape) == 4 else "other linears"


def _check_fit(lora: LoRA, layers: Mapping[str, LoraLayer], known: Mapping[str, tuple[Group, int]], base: str) -> int:
    """Return a LoRA's rank in a layout; InputError where it fits nothing, or where a layer has another shape."""
    if not layers:
        raise InputError(
            f"{lora.source}: none of its {len(lora.layers)} layers is one that this bundle of {base} takes; it was "
            "made for another base model, or for layers that the bundle was exported without (as with --text-adapters)"
        )
    for name, layer in layers.items():
        group, _ = known[name]
        want, have = (group.out_features, group.in_features), layer.weight_shape
        if not layer.rank:
            raise InputError(f"{lora.source}: {name.removeprefix(UNET)} has rank 0; leave the layer out")
        if have != want:
            raise InputError(
                f"{lora.source}: {name.removeprefix(UNET)} has shape {have}, {base} has {want}; the LoRA is for "
                "another base model"
            )
    return max(layer.rank for layer in layers.values())


def _check_room(loras: Sequence[LoRA], ranks: Sequence[int], count: int, rows: int) -> None:
    if len(loras) > count:
        mend = f"export with `loras` {len(loras)}" if len(loras) <= MAX_LORAS else "merge some into one LoRA first"
        raise InputError(f"{len(loras)} LoRAs, but there is room for {count}; {mend}")
    room = min(rows, MAX_STACKED_RANK)  # every layer is padded to the stack's rank: a small file could fill the memory
    if sum(ranks) > room:
        told = " and ".join(f"{lora.source} (rank {rank})" for lora, rank in zip(loras, ranks, strict=True))
        mend, each = "cut a LoRA with  lorarar convert", -(-sum(ranks) // count)
        if each * count <= MAX_STACKED_RANK:
            mend = f"export with a `rank` of {each}, or {mend}"
        raise InputError(f"{told} need {sum(ranks)} ranks, but there is room for {room}; {mend}")


def _zeros(layout: Layout, rows: int, dtype: Any) -> Adapter:
    adapter: Adapter = {}
    for group in layout.groups:
        adapter[group.down] = np.zeros((len(group.modules), rows, group.in_features), dtype)
        adapter[group.up] = np.zeros((len(group.modules), group.out_features, rows), dtype)
    return adapter


def _check_peaks(peaks: tuple[float, float], dtype: Any, where: str) -> None:
    """Refuse factors with NaN or ∞, and those that overflow, by their largest magnitudes."""
    if not np.isfinite(peaks).all():
        raise InputError(f"{where} has NaN or ∞ in it; train it again")
    with np.errstate(over="ignore"):
        if not np.isfinite(np.asarray(peaks, dtype)).all():
            raise InputError(f"{where} is too large for half precision; use fp32")
