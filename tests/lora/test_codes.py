"""Factors as stored: what a look-up gives is what float32 arithmetic gives, bit for bit, for every code there is."""

from __future__ import annotations

import numpy as np
import pytest

from lorarar.lora.codes import CODED, Codes, as_float32, peak, put


def every_code(dtype: str) -> np.ndarray:
    size = CODED[dtype].itemsize
    return np.arange(2 ** (8 * size), dtype=f"u{size}").reshape(-1, 16)


@pytest.mark.parametrize("dtype", CODED)
@pytest.mark.parametrize("out", ["float32", "float16"])
def test_products_and_rounding_are_those_of_float32(dtype: str, out: str) -> None:
    codes = every_code(dtype)
    by = np.float32(0.7), np.float32(-3), np.float32(2**-9)
    with np.errstate(all="ignore"):
        expected = codes.view(CODED[dtype]).astype(np.float32)
        for factor in by:
            expected = expected * factor
        expected = expected.astype(out)
    stored = Codes.of(codes, dtype)
    made = np.zeros((len(codes), 32), out)
    put(stored * by[0] * by[1], by[2], made[:, 3:19])
    np.testing.assert_array_equal(made[:, 3:19].view(f"u{made.itemsize}"), expected.view(f"u{made.itemsize}"))
    assert not made[:, :3].any() and not made[:, 19:].any()


@pytest.mark.parametrize("dtype", CODED)
def test_the_peak_is_the_largest_magnitude_of_either_sign(dtype: str) -> None:
    codes = every_code(dtype)
    values = codes.view(CODED[dtype]).astype(np.float32)
    finite = codes[np.isfinite(values)]
    rng = np.random.default_rng(0)
    for chosen in [rng.choice(finite, 7) for _ in range(50)] + [finite, finite[:1], finite[-1:]]:
        stored = Codes.of(chosen, dtype) * np.float32(-0.5)
        assert peak(stored) == peak(as_float32(stored)) == np.abs(as_float32(stored)).max()
    for bad in codes[~np.isfinite(values)]:
        assert not np.isfinite(peak(Codes.of(np.append(finite, bad), dtype)))
