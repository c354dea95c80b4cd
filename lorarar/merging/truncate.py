"""Cut ΔW to a rank: the truncated SVD of a dense matrix or of two factors, and the error that it leaves.

Imports torch when called: its SVD is several times faster than numpy's here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lorarar.lora import LoRA, LoraLayer, LoraSource, as_lora
from lorarar.lora.types import check_made
from lorarar.merging.types import Truncated, Truncation
from lorarar.settings import check_at_least
from lorarar.toolchains import require_torch

if TYPE_CHECKING:
    from torch import Tensor

# Measured on DARE's ΔW (1280 × 1280, rank 128): error 0.606 against the optimum 0.603; full SVD takes ten times longer,
# and eigh of the Gram matrix loses singular values under 3e-4 of the largest in float32.
_OVERSAMPLE, _ITERATIONS = 32, 4


def cut(delta: Float[np.ndarray, "out inp"], rank: int, shape: tuple[int, ...]) -> tuple[LoraLayer, Truncated]:
    """Return the layer of at most `rank` nearest to ΔW, for a weight of `shape`, and its distance from ΔW.

    A randomised SVD with subspace iterations (arXiv 0909.4061), seeded. The error is measured on the factors returned,
    not estimated. up and down share the singular values.
    """
    import torch

    rank = min(rank, *delta.shape)
    # Products of numbers near float32's largest would overflow. A power of 4 rounds nothing, nor does its root.
    half = math.frexp(float(np.abs(delta).max()))[1] // 2
    dense = torch.from_numpy(np.ldexp(delta, -2 * half))
    if rank + _OVERSAMPLE < min(delta.shape):
        # Its own generator: the global one is shared by all threads.
        start = torch.randn(delta.shape[1], rank + _OVERSAMPLE, generator=torch.Generator().manual_seed(0))
        basis = torch.linalg.qr(dense @ start).Q
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(dense @ torch.linalg.qr(dense.mT @ basis).Q).Q
        u, s, vh = torch.linalg.svd(basis.mT @ dense, full_matrices=False)
        u, v = basis @ u, vh.mT
    else:
        u, s, vh = torch.linalg.svd(dense, full_matrices=False)
        v = vh.mT
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, (v[:, :rank] * root).mT
    error, norm = (torch.sum(matrix.double() ** 2).item() * 16.0**half for matrix in (dense - up @ down, dense))
    up, down = up * 2.0**half, down * 2.0**half
    return as_layer(up.numpy(), down.numpy(), shape), Truncated(error, norm)


def shrink(layer: LoraLayer, rank: int) -> tuple[LoraLayer, Truncated]:
    """Return the best layer of at most `rank` for a ΔW given by factors: an SVD of their small core, in float64."""
    import torch

    shape = layer.weight_shape
    up, down = matrices(layer)
    (left, core_left), (right, core_right) = torch.linalg.qr(up), torch.linalg.qr(down.mT)
    u, s, vh = torch.linalg.svd(core_left @ core_right.mT)
    rank = min(rank, len(s))
    root = s[:rank].sqrt()
    best_up, best_down = left @ (u[:, :rank] * root), (root[:, None] * vh[:rank]) @ right.mT
    best = as_layer(best_up.float().numpy(), best_down.float().numpy(), shape)
    rest = LoraLayer(np.concatenate([layer.down, best.down]), np.concatenate([layer.up, -best.up], axis=1))
    return best, Truncated(rest.squared_norm(), layer.squared_norm())


def resize(lora: LoraSource, rank: int) -> LoRA:
    """Cut a LoRA's layers to the best ones of at most `rank`, by SVD.

    Layers of a smaller rank stay as they are. What is lost, ‖ΔW − ΔW_r‖ / ‖ΔW‖ over all layers that were cut and of the
    worst one, is the last of the result's `warnings`. Raises InputError for a rank under 1.
    """
    check_at_least(1, rank=rank)
    require_torch()
    lora = as_lora(lora)
    check_made(lora)
    cuts = {name: shrink(layer, rank) for name, layer in lora.layers.items() if layer.rank > rank}
    lost = Truncation.of({name: truncated for name, (_, truncated) in cuts.items()})
    if lost is None:
        return lora
    told = (
        f"{lora.source}: {lost.layers} of its {len(lora.layers)} layers were cut to rank {rank}; ΔW changed by "
        f"{lost.overall:.1%}, at most by {lost.worst:.1%} ({lost.worst_layer})"
    )
    layers = {name: cuts[name][0] if name in cuts else layer for name, layer in lora.layers.items()}
    return replace(lora, layers=layers, warnings=(*lora.warnings, told))


def matrices(layer: LoraLayer) -> tuple[Tensor, Tensor]:
    """Return a layer's up (out, rank) and down (rank, in), or (rank, in·kh·kw) of a convolution, in float64."""
    import torch

    up, down = layer.up.reshape(layer.out_features, -1), layer.down.reshape(layer.rank, -1)
    return torch.from_numpy(up).double(), torch.from_numpy(down).double()


def as_layer(up: np.ndarray, down: np.ndarray, shape: tuple[int, ...]) -> LoraLayer:
    """Return the layer of two matrices for a weight of `shape`."""
    ones = (1,) * (len(shape) - 2)
    return LoraLayer(
        np.ascontiguousarray(down).reshape(-1, *shape[1:]), np.ascontiguousarray(up).reshape(shape[0], -1, *ones)
    )
