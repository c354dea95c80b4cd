"""Runs of the native runner, and what is asked of all of them."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime_py.parity import Delta

BundleOf = Callable[[str, str], Path]
"""Gives a bundle's folder, by component and precision."""


def execute(
    program: Path, bundle: Path, *options: object, before: tuple[str, ...] = (), **environment: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a run of the hypernetwork, or what the options say."""
    given = [str(option) for option in options]
    component = [] if "--component" in given else ["--component", "hypernet"]
    command = [*before, str(program), str(bundle), *component, "--runs", "3", *given]
    # ONNX Runtime keeps some memory until the process ends, which is no leak of ours. 99 is no exit code of the runner.
    settings = {"ASAN_OPTIONS": "detect_leaks=0:exitcode=99", "UBSAN_OPTIONS": "exitcode=99", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=os.environ | settings)
    return done.returncode, done.stdout, done.stderr


def decibels(record: dict[str, Any]) -> float:
    """The PSNR of a record, which has no infinity: what equals PyTorch's bit for bit, on some processors, has none."""
    found = record["parity"]["psnr_db"]
    return math.inf if found is None else float(found)


def check_delta(found: dict[str, float] | None, expected: Delta | None) -> None:
    """It is Python's; rounding in other places moves the last digits of what is left of a difference."""
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found["gain"] == pytest.approx(expected.gain, abs=1e-4)
        assert found["cosine"] == pytest.approx(expected.cosine, abs=1e-5)
        assert found["snr_db"] == pytest.approx(expected.snr_db, abs=0.5)


def refused(code: int, said: str, found: tuple[int, str, str], output: Path) -> None:
    """One sentence, the right code, and nothing written."""
    *_, last = found[2].splitlines()
    assert found[0] == code and last.startswith("error: ") and said in last, found[2]
    assert sum(line.startswith("error: ") for line in found[2].splitlines()) == 1 and found[1] == ""
    assert not output.exists() and not list(output.parent.glob("*.part*"))
