"""Make LoRAs of random numbers, of a base's full size: they load everywhere and mean nothing. Numpy only."""

from __future__ import annotations

import numpy as np

from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.write import MAX_RANK
from lorarar.settings import check_at_least, check_seed

DEFAULT_RANK = 16
MOST_STRENGTH = 1e6  # of ΔW's entries, whose factors are then within half precision


def synthetic_lora(layout: Layout, rank: int = DEFAULT_RANK, seed: int = 0, strength: float = 1.0) -> LoRA:
    """Make a LoRA of random numbers with every linear of `layout`, at `rank`.

    `strength` is the standard deviation of ΔW's entries in the middle layer. It rises from the first layer to the last,
    as trained LoRAs differ from block to block too. Raises InputError for numbers that are out of range.
    """
    check_at_least(1, rank=rank)
    if rank > MAX_RANK:
        raise InputError(f"`rank` is {rank}; give a rank of at most {MAX_RANK}, which a file can have")
    check_seed(seed)
    if not 0 <= strength <= MOST_STRENGTH:
        raise InputError(f"`strength` is {strength}; give a number from 0 to {MOST_STRENGTH:g}")
    linears = [(layer, group) for group in layout.groups for layer in group.layers]
    generator = np.random.default_rng(seed)
    # Component k has weight 1/k, as trained factors concentrate on a few directions.
    decay = (1 / np.arange(1, rank + 1)).astype(np.float32)
    norm = np.sqrt(np.sum(decay**2)) ** 0.5
    layers = {}
    for position, (layer, group) in enumerate(linears):
        share = (position + 0.5) / len(linears)
        scale = np.float32(np.sqrt(strength * 2 * share) / norm)
        down = generator.standard_normal((rank, group.in_features), np.float32) * scale
        up = generator.standard_normal((group.out_features, rank), np.float32) * scale * decay
        layers[layer] = LoraLayer(down, up)
    return LoRA(layers, source=f"synthetic, seed {seed}")
