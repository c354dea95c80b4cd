"""Read LoRAs of every dialect, write PEFT's (which is diffusers') and kohya's. Numpy only."""

from lorarar.lora.algebra import concatenate, pad_rank
from lorarar.lora.dialects import DIALECTS, Dialect
from lorarar.lora.read import read_lora
from lorarar.lora.types import COMPONENTS, LoRA, LoraLayer
from lorarar.lora.write import DTYPES, WRITERS, write_lora

__all__ = [
    "COMPONENTS",
    "DIALECTS",
    "DTYPES",
    "WRITERS",
    "Dialect",
    "LoRA",
    "LoraLayer",
    "concatenate",
    "pad_rank",
    "read_lora",
    "write_lora",
]
