"""Numbers of the drawing loop for the apps' engines to compare theirs with."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime_py.sinusoids import sinusoids
from runtime_py.tiles import decode_in_tiles

SINUSOIDS = (([999.0], 320), ([0.5, 31.75], 6), ([1024.0, 1024.0, 0.0, 0.0, 768.0, 768.0], 256))
TILES = ((4, 4, 4), (8, 8, 4), (9, 6, 4), (5, 13, 5))  # height, width and tile in latents


def sinusoid_cases() -> list[dict[str, Any]]:
    """Values, a width and what Python makes of them."""
    return [
        {"values": values, "width": width, "sinusoids": sinusoids(np.float32(values), width).tolist()}
        for values, width in SINUSOIDS
    ]


def tile_cases() -> list[dict[str, Any]]:
    """Latents, and the image of a decoder that makes two pixels of one, brighter to the right of each tile."""

    def decode(latents: np.ndarray) -> np.ndarray:
        wide = latents[:, :3].repeat(2, axis=2).repeat(2, axis=3)
        return wide + np.arange(wide.shape[3], dtype=np.float32)

    cases = []
    for height, width, tile in TILES:
        latents = np.random.default_rng(tile).standard_normal((1, 4, height, width)).astype(np.float32)
        image = decode_in_tiles(decode, latents, tile)
        sizes = {"height": height, "width": width, "tile": tile}
        cases.append({**sizes, "latents": latents.ravel().tolist(), "image": image.ravel().tolist()})
    return cases
