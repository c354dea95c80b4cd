"""Time and memory of a block."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lorarar.evaluation import cost
from lorarar.evaluation.cost import measured


def test_seconds_and_memory_of_a_block() -> None:
    for _ in range(2):  # the second time, freed memory is at hand and must still be counted
        with measured() as found:
            block = np.ones(8 << 20)
            time.sleep(0.03)
        assert 0.03 <= found.seconds < 5
        assert found.extra_bytes is not None
        assert 0.9 * block.nbytes < found.extra_bytes < 1.5 * block.nbytes
        del block
    with measured() as found:
        time.sleep(0.01)
    assert found.extra_bytes is not None
    assert found.extra_bytes < 4 << 20


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_resident", lambda: None)
    with measured() as found:
        pass
    assert found.extra_bytes is None
    assert found.seconds >= 0


def test_a_block_that_fails_is_measured_too() -> None:
    with pytest.raises(ValueError, match="x"), measured() as found:
        raise ValueError("x")
    assert found.extra_bytes is not None
