"""What a device does with a bundle, in Python: check it, merge LoRAs with it, draw with it. Needs numpy alone.

    from runtime_py import Bundle

    session = Bundle.open("bundle").session()
    session.load(["dog.safetensors", "paint.safetensors"])
    session.merge("learned", strengths=(1.0, 0.8))
    image = session.generate("a sks dog in watercolor painting style", seed=3)

Each target's runtime (`runtime_py.backends`) is loaded when an artifact is first run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorarar.composed import ComposedStart
    from runtime_py.bundle import Bundle
    from runtime_py.session import Session

__all__ = ["Bundle", "ComposedStart", "Session"]
_HOMES = {"Bundle": "runtime_py.bundle", "ComposedStart": "lorarar.composed", "Session": "runtime_py.session"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that a module of this package can be imported alone."""
    if name in _HOMES:
        # Here and not above: what needs one module of this package must not load all of them.
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
