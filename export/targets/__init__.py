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


def find_offer(name: str, component: str, precision: str | None, attention: str | None = None) -> tuple[Target, str]:
    """Return a target and the precision of one of its components (default: its own).

    Raises InputError for what the target does not offer, an `attention` too.
    """
    target = find_target(name)
    precision = precision or target.default_precision
    target.require(component, precision)
    if attention is not None and attention not in target.attentions:
        raise InputError(f"`attention` is {attention!r}; valid for {name} are {', '.join(target.attentions)}")
    return target, precision
