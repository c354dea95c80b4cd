"""LoRA files: every dialect in, PEFT/diffusers and kohya out. Numpy only."""

from lorarar.lora.types import COMPONENTS, LoRA, LoraLayer

__all__ = ["COMPONENTS", "LoRA", "LoraLayer"]
