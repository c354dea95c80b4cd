"""KnOTS-TIES against the dense SVD of both updates side by side, with TIES restated."""

from __future__ import annotations

import numpy as np
import pytest
from test_merging_dense import CONTENT, LAYOUT, STYLE, lora, restated_trim, restated_vote

from lorarar.lora import LoRA, LoraLayer
from lorarar.merging import MergeOptions, merge_loras


def dense(layer: LoraLayer) -> np.ndarray:
    return layer.delta().astype(np.float64).reshape(layer.out_features, -1)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.5, -2.0)])
def test_it_is_ties_in_the_directions_of_one_svd(density: float, scales: tuple[float, float]) -> None:
    options = MergeOptions(density=density, content_scale=scales[0], style_scale=scales[1])
    merged = merge_loras(CONTENT, STYLE, LAYOUT, "knots-ties", options)
    assert merged.truncation is None
    for name, item in merged.lora.layers.items():
        updates = [scale * dense(each.layers[name]) for scale, each in zip(scales, (CONTENT, STYLE), strict=True)]
        basis, sizes, vectors = np.linalg.svd(np.concatenate(updates, axis=1), full_matrices=False)
        rank = CONTENT.layers[name].rank + STYLE.layers[name].rank
        content, style = np.split(sizes[:rank, None] * vectors[:rank], 2, axis=1)
        down = restated_vote(restated_trim(content, density), restated_trim(style, density))
        want = basis[:, :rank] @ down
        np.testing.assert_allclose(dense(item), want, atol=2e-5 * np.abs(want).max())
        assert item.rank == rank and item.weight_shape == CONTENT.layers[name].weight_shape


def test_equal_loras_stay_as_they_are_at_their_own_rank() -> None:
    merged = merge_loras(CONTENT, CONTENT, LAYOUT, "knots-ties", MergeOptions(density=1.0))
    for name, item in merged.lora.layers.items():
        np.testing.assert_allclose(dense(item), dense(CONTENT.layers[name]), atol=1e-5)
        assert item.rank == CONTENT.layers[name].rank


def test_loras_of_zeros_and_of_more_ranks_than_outputs() -> None:
    zero = LoRA({name: LoraLayer(layer.down, 0 * layer.up) for name, layer in STYLE.layers.items()}, source="zero")
    both = merge_loras(zero, zero, LAYOUT, "knots-ties").lora
    assert all(item.rank == 1 and not dense(item).any() for item in both.layers.values())
    one = merge_loras(CONTENT, zero, LAYOUT, "knots-ties", MergeOptions(density=1.0)).lora
    for name, item in one.layers.items():
        np.testing.assert_allclose(dense(item), dense(CONTENT.layers[name]), atol=1e-5)
    wide = lora(3, 30), lora(4, 30)
    for name, item in merge_loras(*wide, LAYOUT, "knots-ties").lora.layers.items():
        assert item.rank <= wide[0].layers[name].out_features
