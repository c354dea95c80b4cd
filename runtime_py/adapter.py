"""Save a LoRA as an `.onnx_adapter` file, which ONNX Runtime maps into memory and gives to the merger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.errors import InputError
from lorarar.layout import Packed
from lorarar.lora import LoRA
from runtime_py.backends import load_backend
from runtime_py.backends.onnx import save_adapter
from runtime_py.merge import merger_inputs

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle


def write_adapter(bundle: Bundle, lora: LoRA, role: str, out: Path) -> Packed:
    """Write a LoRA as the `role` (content or style) of a bundle's merger, and return what the file carries.

    Raises InputError for a bundle of another target than onnx, a LoRA that does not fit it, and where ONNX Runtime is
    not installed.
    """
    if bundle.manifest["target"] != "onnx":
        raise InputError(
            f"{bundle.path} is for {bundle.manifest['target']}; only onnx bundles take .onnx_adapter files"
        )
    load_backend("onnx")
    tensors, packed = merger_inputs(bundle, role, lora)
    save_adapter(tensors, out)
    return packed
