"""KnOTS-TIES (arXiv 2410.19735): the vote of TIES in a basis that both LoRAs share. The result is low-rank by nature.

TIES on ΔW compares numbers of two LoRAs that mean different things, and gives a matrix of full rank. Here each LoRA is
first written in the directions of one SVD of both, of which there are r_c + r_s at most. No ΔW is formed: the SVD is of
the factors' small core. Imports torch when called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorarar.merging.dense import merge_dense, trim
from lorarar.merging.truncate import as_layer, matrices
from lorarar.merging.types import METHOD, LayerPair, MergedLayer, MergeOptions, per_core

_LEAST = 1e-7  # of the largest singular value: a direction below it is the factors' rounding


def knots_ties(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Merge by [ΔW_c, ΔW_s] = U [C, S], with orthonormal U (out, k), to U·TIES(C, S); k is at most r_c + r_s.

    C and S are the right singular vectors times the singular values, of which TIES keeps the `density` largest share
    each, elects signs and averages what agrees. The scales multiply ΔW_c and ΔW_s before. A convolution is taken as its
    matrix. Computed in float64.
    """
    return per_core(lambda pair: _merged(pair, options), pairs)


def _merged(pair: LayerPair, options: MergeOptions) -> MergedLayer:
    import torch

    ups, downs = zip(*(matrices(layer.load()) for layer in (pair.content, pair.style)), strict=True)
    left, core = torch.linalg.qr(torch.cat(ups, dim=1))
    rights, cores = zip(*(torch.linalg.qr(down.mT) for down in downs), strict=True)
    scaled = [scale * part.mT for scale, part in zip(options.scales, cores, strict=True)]
    basis, sizes, vectors = torch.linalg.svd(core @ torch.block_diag(*scaled), full_matrices=False)
    count = max(1, int((sizes > _LEAST * sizes[0]).sum()))
    shares = (sizes[:count, None] * vectors[:count]).split([part.shape[1] for part in scaled], dim=1)
    content, style = ((share @ right.mT).float().numpy() for share, right in zip(shares, rights, strict=True))
    down = merge_dense(content, style, trim, True, options.density)
    up = (left @ basis[:, :count]).float().numpy()
    return MergedLayer(pair.name, as_layer(up, down, pair.content.weight_shape), METHOD)
