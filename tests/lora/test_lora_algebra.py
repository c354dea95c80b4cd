"""Concatenation and padding of factors against dense float64 sums."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorarar.errors import InputError
from lorarar.lora import LoraLayer, concatenate, pad_rank
from lorarar.lora.layers import balance_factor, fill


def make(rng: np.random.Generator, rank: int, out: int, inp: int, kernel: tuple[int, ...] = ()) -> LoraLayer:
    down = rng.standard_normal((rank, inp, *kernel)).astype(np.float32)
    up = rng.standard_normal((out, rank, *(1 for _ in kernel))).astype(np.float32)
    return LoraLayer(down, up)


def dense(layer: LoraLayer) -> np.ndarray:
    up = layer.up.reshape(layer.out_features, layer.rank).astype(np.float64)
    return np.einsum("or,r...->o...", up, layer.down.astype(np.float64))


@pytest.mark.parametrize("rank", [1, 4, 6, 4096])
def test_the_squared_norm_is_that_of_the_dense_update(rank: int) -> None:
    """A stranger's rank of 4096 on six outputs and five inputs asks for no matrix of 4096²."""
    layer = make(np.random.default_rng(rank), rank, 6, 5)
    tracemalloc.start()
    try:
        assert layer.squared_norm() == pytest.approx(np.sum(dense(layer) ** 2), rel=1e-9)
        assert tracemalloc.get_traced_memory()[1] < 10 * (layer.down.nbytes + layer.up.nbytes) + 100_000
    finally:
        tracemalloc.stop()


@settings(max_examples=40)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    kernel=st.sampled_from([(), (1, 1), (3, 3)]),
    data=st.data(),
)
def test_concatenation_is_the_weighted_sum(ranks: list[int], kernel: tuple[int, ...], data: st.DataObject) -> None:
    weights = [data.draw(st.floats(-4, 4, width=32)) for _ in ranks]
    rng = np.random.default_rng(len(ranks))
    layers = [make(rng, rank, 6, 5, kernel) for rank in ranks]
    joined = concatenate(layers, weights)
    assert joined.rank == sum(ranks)
    want = sum(weight * dense(layer) for weight, layer in zip(weights, layers, strict=True))
    np.testing.assert_allclose(dense(joined), want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(joined.down[: ranks[0]], layers[0].down)  # weights go to `up`


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_padding_keeps_the_update_exactly(kernel: tuple[int, ...]) -> None:
    layer = make(np.random.default_rng(0), 3, 6, 5, kernel)
    padded = pad_rank(layer, 7)
    assert padded.rank == 7
    assert pad_rank(layer, 3) is layer
    np.testing.assert_array_equal(dense(padded), dense(layer))


def test_misfits_are_refused() -> None:
    rng = np.random.default_rng(0)
    layer = make(rng, 3, 6, 5)
    with pytest.raises(InputError, match="rank 3"):
        pad_rank(layer, 2)
    for layers, weights in (([], []), ([layer], [1.0, 2.0]), ([layer, make(rng, 3, 6, 4)], [1.0, 1.0])):
        with pytest.raises(InputError, match="joined"):
            concatenate(layers, weights)


def test_balancing_is_a_power_of_two_and_even() -> None:
    factor = float(balance_factor(1000.0, 1e-5))
    assert np.log2(factor) == round(np.log2(factor))
    assert 0.5 <= (1000.0 * factor) / (1e-5 / factor) <= 2
    assert balance_factor(0.0, 1.0) == 1


@pytest.mark.parametrize("peaks", [(2.0**127, 2.0**-149), (2.0**-149, 2.0**127)])
def test_balancing_of_hostile_factors_says_what_it_writes(peaks: tuple[float, float]) -> None:
    down, up = (np.full(shape, value, np.float32) for shape, value in zip(((1, 3), (2, 1)), peaks, strict=True))
    written = np.zeros((1, 3), np.float16), np.zeros((2, 1), np.float16)
    told = fill(LoraLayer(down, up), *written)
    np.testing.assert_array_equal([part.max() for part in written], told)
