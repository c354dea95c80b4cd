"""QNN: the NPU of a Snapdragon, on such a machine, or its emulator on x86-64; each artifact in a process of its own."""

from __future__ import annotations

import platform
from functools import partial

from runtime_py.backends import Backend, Way
from runtime_py.component import Component
from runtime_py.processes import ProcessRunner
from runtime_py.qnn_session import require_qnn, sdk_version

EMULATED = (
    "Qualcomm's emulator of the NPU, which computes as every chip's would and is no model of its speed; no phone has "
    "run it"
)


def ways(component: Component, threads: int | None) -> list[Way]:
    """Return the one way. `threads` mean nothing to an NPU."""
    del threads
    emulated = platform.machine() != "aarch64"
    runtime, note = ("QNN HTP (emulated)", EMULATED) if emulated else ("QNN HTP", "")
    return [partial(ProcessRunner, component, "runtime_py.qnn_worker", runtime, sdk_version(), note)]


BACKEND = Backend(("onnxruntime_qnn", "onnxruntime"), "qnn", require_qnn, ways)
