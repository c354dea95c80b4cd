"""LoRA.rar: a hypernetwork merges a content LoRA and a style LoRA in one forward pass (arXiv 2412.05148).

    import lorarar as lr

    dog, paint = lr.read_lora("dog.safetensors"), lr.read_lora("paint.safetensors")
    merged = lr.merge(dog, paint, base="sdxl", method="learned", hypernet="hypernet.safetensors")
    merged.save("merged.safetensors", dialect="kohya")

The public names are those of `dir(lorarar)`. Each is imported when it is first asked for, so `import lorarar` loads
neither numpy nor torch.
"""

from typing import TYPE_CHECKING

from lorarar.toolchains import lazy_names

if TYPE_CHECKING:
    from lorarar.api import merge
    from lorarar.base.names import load_layout
    from lorarar.errors import FailedCheck, InputError
    from lorarar.hypernet.network import Hypernetwork
    from lorarar.layout import Layout
    from lorarar.lora import LoRA, LoraLayer, read_lora
    from lorarar.merging import METHODS
    from lorarar.merging.truncate import resize

__version__ = "0.1.0"
__all__ = ["METHODS", "FailedCheck", "Hypernetwork", "InputError", "Layout", "LoRA", "LoraLayer", "load_layout"]
__all__ += ["merge", "read_lora", "resize"]
__getattr__ = lazy_names(
    __name__,
    {
        "lorarar.api": ["merge"],
        "lorarar.base.names": ["load_layout"],
        "lorarar.errors": ["FailedCheck", "InputError"],
        "lorarar.hypernet.network": ["Hypernetwork"],
        "lorarar.layout": ["Layout"],
        "lorarar.lora": ["LoRA", "LoraLayer", "read_lora"],
        "lorarar.merging": ["METHODS"],
        "lorarar.merging.truncate": ["resize"],
    },
)


def __dir__() -> list[str]:
    """List the public names, not what this file happens to import."""
    return [*sorted(__all__), "__version__"]
