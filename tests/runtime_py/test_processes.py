"""An artifact in a process of its own: whatever happens to one run, the next one has its own answer."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import cast

import numpy as np
import pytest

from lorarar.errors import InputError
from runtime_py.backends import unusable
from runtime_py.component import Component, TensorSpec
from runtime_py.parity import Tolerance
from runtime_py.processes import ProcessRunner


@pytest.fixture
def runner(tmp_path: Path) -> ProcessRunner:
    (tmp_path / "model").write_text("2")
    ends = [(TensorSpec(name, np.dtype(np.float32), (2,)),) for name in "xy"]
    nothing = tmp_path / "no golden file"
    component = Component("double", tmp_path / "model", *ends, Tolerance(60.0, 0.01), nothing, {}, {})
    return ProcessRunner(component, "doubling_worker", "a runtime", "1", "")


def doubled(runner: ProcessRunner, value: float) -> list[float]:
    return cast(list[float], runner.run({"x": np.full(2, value, np.float32)})["y"].tolist())


@contextmanager
def stopped() -> Iterator[None]:
    """Expect the body to be stopped, as by Ctrl-C, by the worker's signal."""

    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_run_that_was_stopped_leaves_no_answer_for_the_next(runner: ProcessRunner) -> None:
    assert doubled(runner, 1) == [2, 2]
    with stopped():
        doubled(runner, 0)
    assert doubled(runner, 10) == [20, 20]
    assert doubled(runner, 20) == [40, 40]


def test_a_restart_that_was_stopped_leaves_no_answer_for_the_next(runner: ProcessRunner) -> None:
    runner._process.kill()
    runner._process.wait()
    slow = runner.component.path.with_name("slow")
    slow.touch()
    with stopped():
        doubled(runner, 1)
    slow.unlink()
    assert doubled(runner, 10) == [20, 20]
    assert doubled(runner, 20) == [40, 40]


def test_a_process_that_ends_is_a_sentence_and_is_started_again(runner: ProcessRunner) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match=r"model: a runtime can't run it \(its process ended by signal 6\)"):
            doubled(runner, -1)
        assert doubled(runner, 3) == [6, 6]


def test_what_an_export_does_not_mend_asks_for_none(runner: ProcessRunner) -> None:
    """A full disk, and what the system ends when memory is short: an export of SDXL takes an hour."""
    with pytest.raises(InputError, match=r"ended by signal 9\); it may have run out of memory: close other programs"):
        doubled(runner, -2)
    runner.component.path.with_name("full").touch()
    with pytest.raises(InputError, match=r"model: a runtime can't load it \(there is no room; free some\)$"):
        doubled(runner, 1)
    with pytest.raises(MemoryError):
        raise unusable(runner.component, "a runtime", "run", MemoryError())


def test_a_process_that_was_ended_between_two_runs_is_started_again(runner: ProcessRunner) -> None:
    first = runner._process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert doubled(runner, 3) == [6, 6]
    assert runner._process.pid != first.pid


def test_what_a_killed_process_leaves_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A lowered program has the size of its weights."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    runner = request.getfixturevalue("runner")
    (scratch,) = place.iterdir()
    (scratch / "lowered").write_text("2 GB")
    runner._process.kill()
    runner._process.wait()
    assert doubled(runner, 1.0) == [2.0, 2.0]
    (other,) = place.iterdir()
    assert other != scratch and not any(other.iterdir())
    runner._end()
    assert not any(place.iterdir())
