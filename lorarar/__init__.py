"""LoRA.rar: a hypernetwork merges a content LoRA and a style LoRA in one forward pass (arXiv 2412.05148).

    import lorarar as lr

    dog, paint = lr.read_lora("dog.safetensors"), lr.read_lora("paint.safetensors")
    merged = lr.merge(dog, paint, base="sdxl", method="learned", hypernet="hypernet.safetensors")
    merged.save("merged.safetensors", dialect="kohya")

The public names are those of `dir(lorarar)`. Each is imported when it is first asked for, so `import lorarar` loads
neither numpy nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorarar.api import merge
    from lorarar.base.names import load_layout
    from lorarar.errors import FailedCheck, InputError
    from lorarar.hypernet.network import Hypernetwork
    from lorarar.layout import Layout
    from lorarar.lora import LoRA, LoraLayer, read_lora
    from lorarar.merging import METHODS

__version__ = "0.1.0"

__all__ = ["METHODS", "FailedCheck", "Hypernetwork", "InputError", "Layout", "LoRA", "LoraLayer", "load_layout"]
__all__ += ["merge", "read_lora"]

_HOMES = {
    "METHODS": "lorarar.merging",
    "FailedCheck": "lorarar.errors",
    "Hypernetwork": "lorarar.hypernet.network",
    "InputError": "lorarar.errors",
    "Layout": "lorarar.layout",
    "LoRA": "lorarar.lora",
    "LoraLayer": "lorarar.lora",
    "load_layout": "lorarar.base.names",
    "merge": "lorarar.api",
    "read_lora": "lorarar.lora",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, not what this file happens to import."""
    return [*sorted(__all__), "__version__"]
