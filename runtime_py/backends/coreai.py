"""Core AI: Apple's own runtime, with the system's kernels on macOS and those of its interpreter on Linux.

Each artifact is in a process of its own, which the runtime ends (SIGABRT) when a file is damaged. Beside other
toolchains in one process of the tests it also ended once by SIGSEGV, whose cause was not found.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version

from lorarar.toolchains import require_coreai
from runtime_py.backends import Backend, Way
from runtime_py.component import Component
from runtime_py.processes import ProcessRunner

NO_APPLE = (
    "Apple's runtime on Linux, with products of fp16 in fp32, since its own are 190 times slower and add up in fp16; "
    "Apple's kernels need macOS or a device"
)


def ways(component: Component, threads: int | None) -> list[Way]:
    """Return the one way. `threads` can't be given: the interpreter has one, and Apple's systems decide themselves."""
    del threads
    runtime, note = ("Core AI", "") if sys.platform == "darwin" else ("Core AI (Linux, CPU)", NO_APPLE)
    return [partial(ProcessRunner, component, "runtime_py.coreai_worker", runtime, version("coreai-core"), note)]


BACKEND = Backend(("coreai",), "coreai", require_coreai, ways)
