"""The targets: how a graph becomes an artifact. One file describes a target, without importing its toolchain.

To add one, describe it in a file beside these (`TARGET`), import that file below, and give it a backend in
`runtime_py/backends/`.
"""

from __future__ import annotations

from export.targets import coreml, executorch, onnx
from export.targets.target import Target as Target
from lorarar.errors import InputError

TARGETS: dict[str, Target] = {module.TARGET.name: module.TARGET for module in (onnx, coreml, executorch)}


def find_target(name: str) -> Target:
    """Return the target of that name; InputError tells the names there are."""
    if name not in TARGETS:
        raise InputError(f"unknown `target` {name!r}; valid are {', '.join(TARGETS)}")
    return TARGETS[name]
