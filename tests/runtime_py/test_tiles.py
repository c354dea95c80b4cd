"""Images decoded in tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime_py.tiles import OVERLAP, decode_in_tiles, fade, tile_starts


@given(st.integers(4, 200), st.integers(4, 200))
def test_tiles_cover_the_length_with_enough_in_common(length: int, tile: int) -> None:
    starts = tile_starts(length, tile)
    assert starts[0] == 0
    if tile >= length:
        assert len(starts) == 1
        return
    assert starts[-1] + tile == length
    steps = np.diff(starts)
    assert steps.min() > 0 and tile - steps.max() >= np.floor(tile * OVERLAP)
    fewer = np.linspace(0, length - tile, len(starts) - 1)
    assert len(starts) == 2 or tile - np.diff(fewer).max() < np.ceil(tile * OVERLAP)


def twice(latents: np.ndarray) -> np.ndarray:
    """Two pixels a latent, of its first three channels."""
    return latents[:, :3].repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize(("height", "width", "tile"), [(16, 16, 16), (16, 16, 8), (24, 17, 8), (9, 40, 7)])
def test_a_decoder_that_looks_at_each_latent_alone_has_no_seams(height: int, width: int, tile: int) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, height, width)).astype(np.float32)
    np.testing.assert_allclose(decode_in_tiles(twice, latents, tile), twice(latents), atol=1e-6)


def test_one_tile_fades_into_the_next() -> None:
    """A decoder that gives each tile a level of its own: the image goes from one to the other without a step."""
    given_levels = iter([0.0, 1.0])

    def flat(latents: np.ndarray) -> np.ndarray:
        return np.full((1, 3, 16, 16), next(given_levels), np.float32)

    row = decode_in_tiles(flat, np.zeros((1, 4, 8, 12), np.float32), 8)[0, 0, 5]
    assert row[0] == 0 and row[-1] == 1 and (np.diff(row) >= 0).all() and np.diff(row).max() < 0.3


def test_the_weights_of_a_side() -> None:
    np.testing.assert_allclose(fade(8), [0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25])
