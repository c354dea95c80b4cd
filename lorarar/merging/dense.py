"""DARE, TIES and DARE-TIES on ΔW itself. A result has full rank; it is cut to a rank, and the error is told.

PEFT's `dare_linear`, `ties` and `dare_ties` act on each of the two factors, which is cruder: entries of up and down
are dropped, not entries of ΔW. The paper's baselines ("uniform weights and a density of 0.5") act on weights, and so do
these, with the largest entries of each layer; the code of KnOTS takes the largest of all layers together, of which some
then lose nearly everything. With uniform weights DARE averages (½, ½). The mean of TIES and DARE-TIES divides by the
number of LoRAs that agree, so equal weights cancel (mergekit's `dare_ties` leaves its sum undivided, which is half of
this where only one LoRA has an entry).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float

from lorarar.lora import LoraLayer
from lorarar.merging.truncate import cut
from lorarar.merging.types import METHOD, RULES, LayerPair, MergedLayer, MergeOptions, Run, per_core, too_large

Thin = Callable[[np.ndarray, float, str], np.ndarray]
"""How entries of ΔW are dropped: takes it, the density and the name of the random numbers."""


def trim(delta: Float[np.ndarray, "out inp"], density: float, _stream: str) -> Float[np.ndarray, "out inp"]:
    """Keep the `density` share of entries of the largest magnitude, and those equal to the smallest that is kept."""
    drop = delta.size - max(1, round(density * delta.size))
    magnitude = np.abs(delta)
    threshold = np.partition(magnitude, drop, axis=None)[drop]
    return np.where(magnitude >= threshold, delta, np.float32(0))


def drop_and_rescale(delta: Float[np.ndarray, "out inp"], density: float, stream: str) -> Float[np.ndarray, "out inp"]:
    """Keep each entry with probability `density` and divide it by that, so that the expectation is ΔW.

    `stream` names the random numbers: the same seed, role and layer give the same, in any order and on any thread.
    """
    seed = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big")
    kept = np.random.Generator(np.random.PCG64(seed)).random(delta.shape, dtype=np.float32) < density
    return np.where(kept, delta / np.float32(density), np.float32(0))


def merge_dense(
    content: Float[np.ndarray, "out inp"],
    style: Float[np.ndarray, "out inp"],
    thin: Thin,
    elect: bool,
    density: float,
    stream: str = "",
) -> Float[np.ndarray, "out inp"]:
    """Compute ΔW_m of one layer, after the entries of both that `thin` drops are gone.

    Where the LoRAs `elect` each entry's sign, it is the mean of those that have the sign of the sum (0 where the sum is
    0); else it is the average.
    """
    content, style = thin(content, density, f"{stream}/content"), thin(style, density, f"{stream}/style")
    total = content + style
    if not elect:
        return total * np.float32(RULES["average"])
    agree_c, agree_s = content * np.sign(total) > 0, style * np.sign(total) > 0
    return np.where(agree_c & agree_s, total / 2, np.where(agree_c, content, np.where(agree_s, style, np.float32(0))))


def sparse(thin: Thin, elect: bool) -> Run:
    """Return a method that merges densely, as a function of pairs; `merge_dense` says what `thin` and `elect` choose.

    A convolution is taken as its matrix (out, in·kh·kw); the scales multiply ΔW_c and ΔW_s before the vote. The result
    has rank `rank_out`, or r_c + r_s.
    """

    def run(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
        def one(pair: LayerPair) -> MergedLayer:
            content = matrix(pair.content) * np.float32(options.content_scale)
            style = matrix(pair.style) * np.float32(options.style_scale)
            delta = merge_dense(content, style, thin, elect, options.density, f"{options.seed}/{pair.name}")
            if not np.isfinite(delta).all():
                raise too_large(pair.name)
            rank = options.rank_out or pair.content.rank + pair.style.rank
            layer, truncated = cut(delta, rank, pair.content.weight_shape)
            return MergedLayer(pair.name, layer, METHOD, truncated=truncated)

        return per_core(one, pairs)

    return run


def matrix(layer: LoraLayer) -> Float[np.ndarray, "out inp"]:
    """Return ΔW as a matrix: (out, in), or (out, in·kh·kw) for a convolution."""
    import torch

    # Multiplied by torch, which keeps to the worker's one thread; numpy's own threads would get in each other's way.
    layer = layer.load()
    up, down = (torch.tensor(factor.reshape(len(factor), -1)) for factor in (layer.up, layer.down))
    return (up @ down).numpy()
