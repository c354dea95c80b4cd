"""Golden tensors: the generator's exact bits, and that no wrong tensor passes for the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime_py.golden import generate, golden_input, mix32, positions, summarise
from runtime_py.parity import (
    Delta,
    DeltaTolerance,
    OutputDifference,
    Parity,
    Tolerance,
    compare_delta,
    compare_golden,
    psnr_db,
    worst_delta,
)


def mix_by_hand(x: int) -> int:
    """MurmurHash3's finaliser on Python integers, as a reader of the manifest would write it."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & 0xFFFFFFFF
    x ^= x >> 13
    x = x * 0xC2B2AE35 & 0xFFFFFFFF
    return x ^ x >> 16


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**20 + 9), st.sampled_from([0.5, 1.0, 2.0]))
def test_generator_is_what_the_manifest_says(seed: int, index: int, scale: float) -> None:
    values = generate((index + 1,), seed, scale)
    level = mix_by_hand((index + seed * 0x9E3779B9) & 0xFFFFFFFF) >> 21
    assert values[index] == (level - 1024) / 1024 * scale
    assert values.astype(np.float16)[index] == values[index]


def test_generator_golden_values() -> None:
    """Fixed numbers for the Kotlin and Swift engines; they come from `mix_by_hand`."""
    assert mix32(np.arange(4, dtype=np.uint32)).tolist() == [0, 1364076727, 821347078, 2247144487]
    assert [mix_by_hand(i) for i in range(4)] == [0, 1364076727, 821347078, 2247144487]
    assert positions(1000).tolist()[:4] == [0, 727, 78, 487]
    assert positions(0).size == 0 and len(positions(5)) == 5 and len(positions(10**6)) == 4096


def test_generated_values_are_uniform_and_seeds_differ() -> None:
    values = generate((100_000,), 1, 1.0)
    assert abs(values.mean()) < 0.01 and abs(values.std() - 3**-0.5) < 0.01
    assert abs(np.corrcoef(values, generate((100_000,), 2, 1.0))[0, 1]) < 0.01


def test_constant_inputs() -> None:
    assert golden_input({"shape": [2], "value": 0.75}, np.float16).tolist() == [0.75, 0.75]


def output() -> np.ndarray:
    return generate((6, 50, 400), 9, 1.0)


TOLERANCE = Tolerance(psnr_db=100.0, max_error=1e-5)


def test_equal_tensors_pass() -> None:
    difference = compare_golden("x", summarise(output()), output())
    assert difference.within(TOLERANCE)
    assert (difference.psnr_db, difference.max_error) == (np.inf, 0)


def swapped(tensor: np.ndarray) -> np.ndarray:
    return tensor[[1, 0, 2, 3, 4, 5]]


def scaled_layer(tensor: np.ndarray) -> np.ndarray:
    tensor[3] *= 1 + 1e-4
    return tensor


def not_finite(tensor: np.ndarray) -> np.ndarray:
    # At a position that is not sampled: only the statistics see it.
    free = np.setdiff1d(np.arange(tensor.size), positions(tensor.size))[0]
    tensor.reshape(-1)[free] = np.nan
    return tensor


WRONG = {
    "transposed": lambda t: np.ascontiguousarray(t.transpose(0, 2, 1)).reshape(t.shape),
    "sign": lambda t: -t,
    "layers swapped": swapped,
    "one layer off by 1e-4": scaled_layer,
    "one NaN": not_finite,
    "shifted by a column": lambda t: np.roll(t, 1, axis=2),
    "zeros": np.zeros_like,
    "one layer missing": lambda t: t[:5],
    "fp16": lambda t: (t * np.float32(0.3)).astype(np.float16).astype(np.float32) / np.float32(0.3),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tensors_fail(name: str) -> None:
    assert not compare_golden("x", summarise(output()), WRONG[name](output())).within(TOLERANCE)


@pytest.mark.parametrize("change", [lambda n: 0.3 * (-1.0) ** np.arange(n), lambda n: np.full(n, 0.3)], ids=["±", "+"])
def test_what_is_not_sampled_is_seen_by_the_statistics(change: Callable[[int], np.ndarray]) -> None:
    """The one keeps the mean, and the other changes it; no sampled value is touched."""
    right = generate((9000,), 1, 1.0)
    rest = np.setdiff1d(np.arange(right.size), positions(right.size))
    wrong = right.copy()
    wrong[rest] += change(rest.size).astype(np.float32)
    found = compare_golden("x", summarise(right), wrong)
    assert found.psnr_db == np.inf and not found.within(TOLERANCE)


def test_the_delta_that_is_told_is_the_worst_of_all_outputs() -> None:
    """That of NaN before all."""
    deltas = [Delta(1.0, 1.0, 90.0), None, Delta(0.5, 0.9, 6.0), Delta(1.0, 0.8, 6.0), Delta(np.nan, 1.0, np.nan)]
    found = [replace(OutputDifference("x", 60.0, 0.0, 0.0), delta=delta) for delta in deltas]
    assert [worst_delta(found[:end]) for end in (0, 2, 3, 4, 5)] == [None, deltas[0], *[deltas[2]] * 2, deltas[4]]


def test_zero_references_only_match_zero() -> None:
    zero = np.zeros((2, 8), np.float32)
    assert compare_golden("x", summarise(zero), zero).within(TOLERANCE)
    assert not compare_golden("x", summarise(zero), zero + 1e-20).within(TOLERANCE)


def test_psnr_by_hand() -> None:
    assert psnr_db(np.array([2.0, 0.0]), np.array([2.0, 0.2])) == pytest.approx(20 * np.log10(2 / np.sqrt(0.02)))
    assert psnr_db(np.ones(3), np.array([1, 1, np.inf])) == -np.inf


def changed(effect: list[float]) -> Delta:
    """What LoRAs change, measured on outputs of which PyTorch's LoRAs change the first value by 2."""
    with_, without = np.float32([3, 5]), np.float32([1, 5])
    return compare_delta(with_, without, np.float32([7, 7]) + np.float32(effect), np.float32([7, 7]))


def test_the_effect_of_loras_by_hand() -> None:
    assert changed([2, 0]) == Delta(1.0, 1.0, np.inf)
    half = changed([1, 0])
    assert (half.gain, half.cosine, half.snr_db) == (0.5, 1.0, pytest.approx(20 * np.log10(2 / 1)))
    turned = changed([2, 2])
    assert (turned.gain, turned.cosine, turned.snr_db) == (1.0, pytest.approx(0.5**0.5), pytest.approx(0.0))
    assert (changed([-2, 0]).gain, changed([-2, 0]).cosine) == (-1.0, -1.0)
    none = changed([0, 0])
    assert none.gain == 0 and np.isnan(none.cosine) and none.snr_db == 0


@pytest.mark.parametrize(
    ("wrong", "passes"),
    [
        ({}, True),
        ({"psnr_db": 59.9}, False),
        ({"max_error": 0.011}, False),
        ({"delta": None}, False),
        ({"delta": Delta(0.989, 1.0, 40.0)}, False),
        ({"delta": Delta(1.011, 1.0, 40.0)}, False),
        ({"delta": Delta(1.0, 0.998, 40.0)}, False),
        ({"delta": Delta(1.0, np.nan, 40.0)}, False),
        ({"delta": Delta(0.991, 0.9991, 40.0)}, True),
    ],
)
def test_each_bound_counts_by_itself(wrong: dict[str, Any], passes: bool) -> None:
    allowed = Tolerance(60.0, 0.01, DeltaTolerance(gain_error=0.01, cosine=0.999))
    good = OutputDifference("x", 60.1, 0.009, 0.1, Delta(1.0, 1.0, np.inf))
    assert replace(good, **wrong).within(allowed) is passes


def test_parity_is_valid_json() -> None:
    data = Parity("passed", "", np.inf, 0.0, None, "r", "1", "h").to_json()
    assert (data["psnr_db"], data["max_abs"]) == (None, 0.0)


@pytest.mark.parametrize(
    ("parity", "words"),
    [
        (Parity("passed", "", np.inf, 0.0, None, "r", "1", "h"), "infinite PSNR"),
        (
            Parity("passed", "no Apple kernels", np.inf, 0.0, None, "r", "1", "h"),
            "no Apple kernels; every compared value",
        ),
        (Parity("failed", "x differs", -np.inf, np.inf, None, "r", "1", "h"), "x differs; an output is not finite"),
        (Parity("failed", "x differs", 12.0, np.inf, None, "r", "1", "h"), "infinite error"),
        (Parity("passed", "", 90.0, 0.1, Delta(1.0, 1.0, np.inf), "r", "1", "h"), "infinite signal-to-noise"),
        (Parity("failed", "", 90.0, 0.1, Delta(np.nan, np.nan, -np.inf), "r", "1", "h"), "no gain or cosine"),
        (Parity("not_run", "onnxruntime is not installed", None, None, None, "r", "1", "h"), "is not installed"),
        (Parity("not_run", "", None, None, None, "r", "1", "h"), "not run"),
    ],
)
def test_the_reason_explains_every_null(parity: Parity, words: str) -> None:
    data = parity.to_json()
    assert None in (data["psnr_db"], data["max_abs"], *(data["delta"] or {}).values())
    assert words in data["reason"]


def test_a_reason_without_nulls_stays_as_it_is() -> None:
    assert Parity("passed", "", 80.0, 1e-6, None, "r", "1", "h").to_json()["reason"] == ""
