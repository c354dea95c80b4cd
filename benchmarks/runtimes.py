"""The runtimes of the targets as benchmarks and their records name them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass

from lorarar.errors import InputError


@dataclass(frozen=True)
class Runtime:
    """What runs the artifacts of a target, in the words of record.schema.json."""

    name: str
    backend: str  # what runs the graph on a computer
    unit: str  # where it runs it there
    apple_only: bool = False


RUNTIMES: Mapping[str, Runtime] = {
    "onnx": Runtime("onnxruntime", "CPUExecutionProvider", "cpu"),
    "executorch": Runtime("executorch", "XNNPACK", "cpu"),
    "coreml": Runtime("coreml", "Core ML", "all", apple_only=True),
}
"""Target → its runtime."""
ANYWHERE = tuple(target for target, runtime in RUNTIMES.items() if not runtime.apple_only)
"""The targets whose artifacts can be timed on every computer."""


def require_timed_here(target: str, what: str) -> None:
    """Refuse what can't be timed on this computer; `what` is named in the InputError."""
    if RUNTIMES[target].apple_only and platform.system() != "Darwin":
        raise InputError(f"{what}: a Core ML bundle is timed on Apple systems only; check it with  lorarar check")
