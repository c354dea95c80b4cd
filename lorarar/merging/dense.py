"""DARE, TIES and DARE-TIES on ΔW itself. Their results have full rank, so they are cut to a rank and the error told.

PEFT's `dare_linear`, `ties` and `dare_ties` act on the two factors apart, which is another, cruder thing: entries of
up and down are dropped, not entries of ΔW. The paper's baselines ("uniform weights and a density of 0.5") act on
weights, as we do. Uniform weights mean here: DARE averages (½, ½); the disjoint mean of TIES and DARE-TIES divides by
how many LoRAs agree, so that equal weights drop out (mergekit's `dare_ties` leaves its sum undivided: ½ of ours where
one LoRA speaks alone).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lorarar.lora.types import LoraLayer
from lorarar.merging.truncate import cut
from lorarar.merging.types import METHOD, RULES, MergeOptions, MergedLayer, LayerPair, too_large
from lorarar.merging.workers import one_layer_a_core

Matrix = np.ndarray


def trim(delta: Float[np.ndarray, "out inp"], density: float, _stream: str) -> Float[np.ndarray, "out inp"]:
    """The `density` share of entries of the largest magnitude; entries equal to the smallest kept are kept too."""
    drop = delta.size - max(1, round(density * delta.size))
    magnitude = np.abs(delta)
    threshold = np.partition(magnitude, drop, axis=None)[drop]
    return np.where(magnitude >= threshold, delta, np.float32(0))


def drop_and_rescale(delta: Float[np.ndarray, "out inp"], density: float, stream: str) -> Float[np.ndarray, "out inp"]:
    """Each entry kept with probability `density` and divided by it, so that the expectation is ΔW.

    `stream` names the random numbers: the same for the same seed, role and layer, whatever the order or the threads.
    """
    seed = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:16], "big")
    kept = np.random.Generator(np.random.PCG64(seed)).random(delta.shape, dtype=np.float32) < density
    return np.where(kept, delta / np.float32(density), np.float32(0))


@dataclass(frozen=True)
class Recipe:
    """What sets the three methods apart."""

    thin: Callable[[Matrix, float, str], Matrix]  # how entries are dropped
    elect: bool  # whether the LoRAs vote on each entry's sign


RECIPES = {
    "dare": Recipe(drop_and_rescale, elect=False),  # arXiv 2311.03099
    "ties": Recipe(trim, elect=True),  # arXiv 2306.01708
    "dare-ties": Recipe(drop_and_rescale, elect=True),  # arXiv 2403.13257 (mergekit), after both
}


def merge_dense(
    content: Float[np.ndarray, "out inp"],
    style: Float[np.ndarray, "out inp"],
    recipe: Recipe,
    density: float,
    stream: str = "",
) -> Float[np.ndarray, "out inp"]:
    """ΔW_m of one layer. With `elect`, each entry takes the sign of the sum and the mean of those that have that sign
    (0 where the sum is 0); without, the average.
    """
    content = recipe.thin(content, density, f"{stream}/content")
    style = recipe.thin(style, density, f"{stream}/style")
    total = content + style
    if not recipe.elect:
        return total * np.float32(RULES["average"])
    agree_c, agree_s = content * np.sign(total) > 0, style * np.sign(total) > 0
    return np.where(agree_c & agree_s, total / 2, np.where(agree_c, content, np.where(agree_s, style, np.float32(0))))


def sparse(name: str) -> Callable[[Sequence[LayerPair], MergeOptions], Iterator[MergedLayer]]:
    """The method `name` of RECIPES as a function of pairs. A convolution is taken as its matrix (out, in·kh·kw); the
    scales multiply ΔW_c and ΔW_s before the vote. The result has rank `rank_out`, or r_c + r_s.
    """

    def one(pair: LayerPair, options: MergeOptions) -> MergedLayer:
        with np.errstate(over="ignore", invalid="ignore"):  # told below, once
            content = matrix(pair.content) * np.float32(options.content_scale)
            style = matrix(pair.style) * np.float32(options.style_scale)
            delta = merge_dense(content, style, RECIPES[name], options.density, f"{options.seed}/{pair.name}")
        if not np.isfinite(delta).all():
            raise too_large(pair.name)
        rank = options.rank_out or pair.content.rank + pair.style.rank
        layer, truncated = cut(delta, rank, pair.content.weight_shape)
        return MergedLayer(pair.name, layer, METHOD, truncated=truncated)

    def run(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
        yield from one_layer_a_core(lambda pair: one(pair, options), pairs)

    return run


def matrix(layer: LoraLayer) -> Float[np.ndarray, "out inp"]:
    """ΔW as a matrix: (out, in), or (out, in·kh·kw) for a convolution."""
    import torch

    # By torch, which keeps to the worker's one thread; numpy's own threads would get in each other's way.
    up, down = (torch.tensor(factor.reshape(len(factor), -1)) for factor in (layer.up, layer.down))
    return (up @ down).numpy()
