"""What a device does with a bundle, in Python: check it, merge LoRAs with it, draw with it. Without torch.

    from runtime_py import Bundle

    session = Bundle.open("bundle").session()
    session.load(["dog.safetensors", "paint.safetensors"])
    session.merge("learned", strengths=(1.0, 0.8))
    image = session.generate("a sks dog in watercolor painting style", seed=3)

Each target's runtime (`runtime_py.backends`) is loaded when an artifact is first run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorarar.toolchains import lazy_names

if TYPE_CHECKING:
    from lorarar.composed import ComposedStart
    from runtime_py.bundle import Bundle
    from runtime_py.session import Session

__all__ = ["Bundle", "ComposedStart", "Session"]
__getattr__ = lazy_names(
    __name__,
    {"runtime_py.bundle": ["Bundle"], "lorarar.composed": ["ComposedStart"], "runtime_py.session": ["Session"]},
)


def __dir__() -> list[str]:
    return __all__
