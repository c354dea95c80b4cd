"""Time and memory of a block."""

from __future__ import annotations

import time

import numpy as np
import pytest

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


def test_a_block_that_fails_is_measured_too() -> None:
    with pytest.raises(ValueError, match="x"), measured() as found:
        block = np.ones(8 << 20)
        raise ValueError("x")
    assert 0.9 * block.nbytes < found.extra_bytes < 1.5 * block.nbytes
    assert found.seconds > 0
