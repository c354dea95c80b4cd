"""Decode an image in tiles: a decoder's results grow with the pixels, and a tile of 512 needs a quarter of 1024's."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

OVERLAP = 0.25
"""The least share of a tile that it has in common with the next one, over which one fades into the other."""

Decode = Callable[[Float[np.ndarray, "1 c t t"]], Float[np.ndarray, "1 3 p p"]]


def tile_starts(length: int, tile: int) -> Int[np.ndarray, " tiles"]:
    """Return where tiles start that cover a length with at least OVERLAP in common, spread evenly."""
    if tile >= length:
        return np.zeros(1, int)
    count = math.ceil((length - tile) / (tile - math.ceil(tile * OVERLAP))) + 1
    return np.arange(count) * (length - tile) // (count - 1)


def fade(size: int) -> Float[np.ndarray, " size"]:
    """Return the weight of each pixel of a tile's side: 1 inside, falling to the edges over the least overlap."""
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) + np.float32(0.5)
    return np.minimum(edge / np.float32(max(1.0, size * OVERLAP)), np.float32(1)).astype(np.float32)


def decode_in_tiles(
    decode: Decode, latents: Float[np.ndarray, "1 c h w"], tile: int
) -> Float[np.ndarray, "1 3 height width"]:
    """Return the image of latents by a decoder that takes `tile` × `tile` of them.

    Each pixel is the mean of the tiles that hold it, weighted by how far it is from their edges.
    """
    height, width = latents.shape[2:]
    if (height, width) == (tile, tile):
        return decode(latents)
    image = weights = np.zeros(0, np.float32)
    for top in tile_starts(height, tile):
        for left in tile_starts(width, tile):
            part = decode(latents[:, :, top : top + tile, left : left + tile]).astype(np.float32)
            side = part.shape[2]
            scale = side // tile
            if not image.size:
                image = np.zeros((1, 3, height * scale, width * scale), np.float32)
                weights = np.zeros(image.shape[2:], np.float32)
            weight = fade(side)[:, None] * fade(side)
            rows, columns = (slice(start * scale, start * scale + side) for start in (top, left))
            image[:, :, rows, columns] += part * weight
            weights[rows, columns] += weight
    return image / weights
