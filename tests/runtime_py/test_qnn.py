"""A QNN artifact runs in a process of its own: what ends that process is a sentence here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from lorarar.errors import InputError
from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.golden import golden_inputs
from runtime_py.processes import ProcessRunner


@pytest.fixture
def bundle(bundle_folders: dict[tuple[str, str], Path]) -> Bundle:
    return Bundle.open(bundle_folders["qnn", "fp16"])


def test_a_process_that_ends_is_a_sentence(bundle: Bundle) -> None:
    runner, inputs = open_runner(bundle), golden_inputs(bundle.component("hypernet"))
    assert isinstance(runner, ProcessRunner)
    first = runner.run(inputs)
    again = runner.run(inputs)
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    os.kill(runner._process.pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"QNN HTP \(emulated\) can't run it \(its process ended by signal 9\)"):
        runner.run(inputs)


def test_a_runner_that_is_let_go_leaves_no_process(bundle: Bundle) -> None:
    runner = open_runner(bundle)
    assert isinstance(runner, ProcessRunner)
    pid = runner._process.pid
    del runner
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_bundle_says_what_it_is_compiled_for(bundle: Bundle) -> None:
    sdk = bundle.manifest["soc"].pop("sdk")
    assert bundle.manifest["soc"] == {"name": "sm8650", "htp_arch": 75, "model": 57}
    assert sdk.count(".") == 2
