"""Time and memory of a block."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest
import torch

from lorarar.evaluation.cost import measured


def test_seconds_and_memory_of_a_block() -> None:
    for _ in range(2):  # the second time, freed memory is at hand and must still be counted
        with measured() as found:
            block = np.ones(8 << 20)
            time.sleep(0.03)
        assert 0.03 <= found.seconds < 5
        assert 0.9 * block.nbytes < found.extra_bytes < 1.5 * block.nbytes
        del block
    with measured() as found:
        time.sleep(0.01)
    assert found.extra_bytes < 4 << 20


def test_what_a_block_holds_of_the_gpu_comes_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge may compute on the CPU, on the GPU, or both."""
    held, asked = [3 << 20], list[str]()
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, partial(asked.append, name))
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: held[0])
    with measured("cuda") as found:
        block = np.ones(8 << 20)
        held[0] += 20 << 20
        time.sleep(0.03)
    assert asked == ["synchronize", "reset_peak_memory_stats", "synchronize"]
    assert 0.9 * block.nbytes < found.extra_bytes - (20 << 20) < 1.5 * block.nbytes


def test_a_block_that_fails_is_measured_too() -> None:
    with pytest.raises(ValueError, match="x"), measured() as found:
        block = np.ones(8 << 20)
        raise ValueError("x")
    assert 0.9 * block.nbytes < found.extra_bytes < 1.5 * block.nbytes
    assert found.seconds > 0
