"""Stacks: several LoRAs in one adapter mean what they mean apart, times their coefficients; and what is carried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import dense_delta, random_lora, tiny_layout

from lorarar.errors import InputError
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, LoraLayer
from lorarar.stack import carried, empty_stack, fold, stack

WHOLE = tiny_layout("transformer")
ranks = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


def random_coefficients(layout: Layout, loras: int, seed: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    shapes = {group.coefficients: (len(group.modules), loras, group.in_features) for group in layout.groups}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@settings(max_examples=40)
@given(st.lists(ranks, min_size=1, max_size=4), st.integers(0, 7), st.integers(0, 2), st.integers(0, 999))
def test_a_stack_is_the_sum_of_its_loras_times_their_coefficients(
    all_ranks: list[tuple[int, ...]], more_rows: int, more_roles: int, seed: int
) -> None:
    """ΔW = Σₖ ΔWₖ·diag(mₖ), in float64 on dense matrices, whatever the padding."""
    loras = [random_lora(WHOLE, given, seed + number) for number, given in enumerate(all_ranks)]
    rows, roles = sum(map(max, all_ranks)) + more_rows, len(loras) + more_roles
    stacked = stack(loras, WHOLE, roles, rows)
    coefficients = random_coefficients(WHOLE, roles, seed)
    folded = fold(stacked.adapter, stacked.roles, coefficients, WHOLE)
    assert set(stacked.roles.sum(axis=1)) <= {0, 1} and stacked.roles.sum() == rows - more_rows
    for group in WHOLE.groups:
        assert stacked.adapter[group.down].shape == (len(group.modules), rows, group.in_features)
        for row, module in enumerate(group.modules):
            columns = coefficients[group.coefficients][row]
            parts = [dense_delta(lora.layers[UNET + module]) * columns[k] for k, lora in enumerate(loras)]
            largest = max(np.abs(part).max() for part in parts)
            np.testing.assert_allclose(
                dense_delta(folded.layers[UNET + module]), sum(parts), rtol=0, atol=1e-5 * max(1, largest)
            )


def test_the_files_numbers_are_in_the_stack_bit_for_bit(layout: Layout) -> None:
    loras = [random_lora(layout, (3, 1), 1), random_lora(layout, (2,), 2)]
    stacked = stack(loras, layout)
    for group in layout.groups:
        for row, module in enumerate(group.modules):
            first, second = (lora.layers[UNET + module] for lora in loras)
            down, up = stacked.adapter[group.down][row], stacked.adapter[group.up][row]
            np.testing.assert_array_equal(down[: first.rank], first.down)
            np.testing.assert_array_equal(down[3:5], second.down)
            np.testing.assert_array_equal(up[:, 3:5], second.up)
            assert not down[first.rank : 3].any() and not up[:, first.rank : 3].any()
    np.testing.assert_array_equal(stacked.roles, [[1, 0]] * 3 + [[0, 1]] * 2)


def test_half_precision_balances_what_would_leave_its_range(layout: Layout) -> None:
    """up of 1e5 overflows fp16 and down of 1e-8 vanishes in it; their product, 1e-3, is harmless."""
    lora = random_lora(layout, (4,), 1, up_scale=1e5, down_scale=1e-8)
    stacked = stack([lora], layout, dtype=np.float16)
    ones = {name: np.ones_like(values) for name, values in random_coefficients(layout, 1, 0).items()}
    back = fold(stacked.adapter, stacked.roles, ones, layout)
    for name, layer in lora.layers.items():
        delta = layer.delta()
        np.testing.assert_allclose(back.layers[name].delta(), delta, rtol=0, atol=2e-3 * np.abs(delta).max())
    with pytest.raises(InputError, match="too large for half precision; use fp32"):
        stack([random_lora(layout, (4,), 1, up_scale=1e7, down_scale=1e4)], layout, dtype=np.float16)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_factors_that_are_no_numbers_are_refused(layout: Layout, number: float, dtype: Any) -> None:
    """Files are read without them; a LoRA that was made in Python may have them."""
    layers = dict(random_lora(layout, (3,), 2).layers)
    name, layer = next(iter(layers.items()))
    for factor in ("down", "up"):
        broken = getattr(layer, factor).copy()
        broken[1, 1] = number
        with pytest.raises(InputError, match=f"a factor of {name} has NaN or ∞ in it"):
            stack([LoRA(layers | {name: replace(layer, **{factor: broken})})], layout, dtype=dtype)


def test_a_layer_of_rank_0_is_refused(layout: Layout) -> None:
    layers = dict(random_lora(layout, (3,), 2).layers)
    name, layer = next(iter(layers.items()))
    empty = LoraLayer(layer.down[:0], layer.up[:, :0])
    with pytest.raises(InputError, match="has rank 0; leave the layer out"):
        stack([LoRA(layers | {name: empty})], layout)


def test_missing_layers_are_zero_and_known_to_be_missing(layout: Layout) -> None:
    whole = random_lora(layout, (3,), 2)
    group = layout.groups[0]
    alone = LoRA({UNET + group.modules[1]: whole.layers[UNET + group.modules[1]]})
    stacked = stack([alone, whole], layout, roles=3)
    assert stacked.adapter[group.down][1, :3].any() and not stacked.adapter[group.down][0, :3].any()
    present = stacked.present(group)
    assert present.shape == (len(group.modules), 3)
    np.testing.assert_array_equal(present[:, 0], np.arange(len(group.modules)) == 1)
    assert present[:, 1].all() and not present[:, 2].any()


def test_an_empty_stack_is_zeros(layout: Layout) -> None:
    stacked = empty_stack(layout, 2, 5, np.float16)
    assert all(not tensor.any() and tensor.dtype == np.float16 for tensor in stacked.inputs.values())
    assert not stacked.present(layout.groups[0]).any()


def test_loras_that_do_not_fit_are_refused(layout: Layout) -> None:
    lora = random_lora(layout, (3,), 2)
    name = next(iter(lora.layers))
    wrong = LoraLayer(lora.layers[name].down[:, :-1], lora.layers[name].up)
    with pytest.raises(InputError, match=r"has shape \(32, 31\), tiny has \(32, 32\); the LoRA is for another base"):
        stack([LoRA({name: wrong})], layout)
    with pytest.raises(InputError, match=r"\(rank 3\) and .* \(rank 3\) need 6 ranks, .* room for 5; .* `rank` of 3"):
        stack([lora, lora], layout, 2, 5)
    with pytest.raises(InputError, match="3 LoRAs, but there is room for 2; export with `loras` 3"):
        stack([lora, lora, lora], layout, 2)
    with pytest.raises(InputError, match="9 LoRAs, but there is room for 8; merge some into one LoRA first"):
        stack([lora] * 9, layout, 8)
    large = random_lora(layout, (520,), 2)
    with pytest.raises(
        InputError, match=r"need 1040 ranks, but there is room for 4; cut a LoRA with  lorarar convert$"
    ):
        stack([large, large], layout, 2, 4)
    with pytest.raises(
        InputError, match=r"need 1024 ranks, but there is room for 900; cut a LoRA with  lorarar convert$"
    ):
        # Each of three would get 342, and three of these are more than a stack has.
        stack([random_lora(layout, (rank,), 2) for rank in (341, 341, 342)], layout, 3, 900)
    with pytest.raises(InputError, match=r"need 1040 ranks, but there is room for 1024; cut a LoRA"):
        stack([large, large], layout)  # of an artifact with any rank: each layer is padded to it
    with pytest.raises(InputError, match="none of its 1 layers is one that this bundle of tiny takes"):
        stack([LoRA({"unet.other.to_q": lora.layers[name]})], layout)


def test_any_ranks_fit_that_are_small_enough_together(layout: Layout) -> None:
    stacked = stack([random_lora(layout, (7,), 1), random_lora(layout, (1,), 2)], layout, 2, 8)
    np.testing.assert_array_equal(stacked.roles.sum(axis=0), [7, 1])


def test_what_is_carried_is_told_by_part() -> None:
    """Against dense ‖ΔW‖², with layers that no adapter takes."""
    one = LoraLayer(np.eye(1, 8, dtype=np.float32), np.eye(8, 1, dtype=np.float32))
    conv = LoraLayer(np.ones((1, 2, 3, 3), np.float32), np.ones((4, 1, 1, 1), np.float32))
    inside = random_lora(WHOLE, (2, 5), 5, 0.1)
    outside = {"unet.time_embedding.linear_1": one, "unet.conv_in": conv, "text_encoder.q_proj": one}
    lora = LoRA(dict(inside.layers) | outside, source="mine")
    dense = {name: float(np.sum(layer.delta().astype(np.float64) ** 2)) for name, layer in lora.layers.items()}
    whole = sum(dense.values())
    found = carried(lora, WHOLE)
    for part in ("qo", "kv", "ff", "proj"):
        wanted = sum(dense[UNET + module] for group in WHOLE.part(part) for module in group.modules) / whole
        assert found.parts[part] == pytest.approx(wanted, rel=1e-4)
    assert {what: count for what, (count, _) in found.left_out.items()} == {
        "other linears": 1,
        "convolutions": 1,
        "layers of text encoders": 1,
    }
    assert found.left_out["convolutions"][1] == pytest.approx(dense["unet.conv_in"] / whole)
    assert found.share + sum(share for _, share in found.left_out.values()) == pytest.approx(1)
    assert set(found.names) == set(outside)
    assert "mine: " in str(found.warning()) and "1 convolutions" in str(found.warning())
    assert carried(inside, WHOLE).warning() is None
    untrained = LoRA({"unet.conv_in": replace(conv, up=0 * conv.up)})
    assert ": 0.0% of its squared norm" in str(carried(untrained, WHOLE).warning())
    # An adapter of the attention alone leaves out what most LoRAs have most of.
    assert "other linears" in carried(inside, tiny_layout()).left_out
