"""Read LoRAs of every dialect, write PEFT's (which is diffusers') and kohya's. Numpy only."""

from lorarar.lora.dialects import DIALECTS, Dialect
from lorarar.lora.layers import COMPONENTS, LoraLayer, concatenate, pad_rank
from lorarar.lora.read import LoraSource, as_lora, open_lora, read_lora
from lorarar.lora.types import LoRA
from lorarar.lora.write import DTYPES, WRITERS, write_lora

__all__ = ["COMPONENTS", "DIALECTS", "DTYPES", "WRITERS", "Dialect", "LoRA", "LoraLayer", "concatenate", "pad_rank"]
__all__ += ["LoraSource", "as_lora", "open_lora", "read_lora", "write_lora"]
