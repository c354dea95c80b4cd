"""QNN: the NPU of a Snapdragon, on such a machine, or its emulator on x86-64; each artifact in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import IO, BinaryIO, cast

import numpy as np

from lorarar.errors import InputError
from runtime_py.backends import Backend, checked_inputs, unusable
from runtime_py.component import Component
from runtime_py.processes import end_of, start
from runtime_py.qnn_session import MODEL, require_qnn, sdk_version
from runtime_py.qnn_worker import receive, send

EMULATED = (
    "Qualcomm's emulator of the NPU, which computes as every chip's would and is no model of its speed; no phone has "
    "run it"
)


class QnnRunner:
    """A context in the NPU or its emulator. `run` takes as long as the process that runs it."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.version = sdk_version()
        emulated = platform.machine() != "aarch64"
        self.runtime = "QNN HTP (emulated)" if emulated else "QNN HTP"
        self.note = EMULATED if emulated else ""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self._process = start(
            "runtime_py.qnn_worker", component.path / MODEL,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
        )  # fmt: skip
        self._asked, self._answers = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        weakref.finalize(self, _end, self._process, (self._asked, self._answers, self._said))
        if receive(self._answers) is None:
            raise unusable(component, "QNN", "load", self._failure())

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the context once."""
        given = checked_inputs(self.component, inputs)
        try:
            send(self._asked, given)
            outputs = receive(self._answers)
        except BrokenPipeError:
            outputs = None
        if outputs is None:
            raise unusable(self.component, "QNN", "run", self._failure())
        if {name: value.shape for name, value in outputs.items()} != {s.name: s.shape for s in self.component.outputs}:
            raise InputError(f"{self.component.path}: its tensors are not the manifest's; export the bundle again")
        return outputs

    def _failure(self) -> RuntimeError:
        """Wait until the process has ended, and say how."""
        with suppress(BrokenPipeError):
            self._asked.close()
        self._process.wait()
        self._said.seek(0)
        return RuntimeError(end_of(self._process, self._said.read()))


def _end(process: subprocess.Popen[bytes], streams: Iterable[IO[bytes]]) -> None:
    """End a process that nobody asks any more."""
    process.kill()
    process.wait()
    for stream in streams:
        with suppress(BrokenPipeError):
            stream.close()


BACKEND = Backend(("onnxruntime_qnn",), "qnn", require_qnn, lambda component, threads: [QnnRunner(component)])
