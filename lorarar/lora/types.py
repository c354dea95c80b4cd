"""A LoRA in memory. Numpy only, but for `LoRA.to_state_dict`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.errors import InputError
from lorarar.lora.codes import peak
from lorarar.lora.layers import LoraLayer, StoredLayer
from lorarar.lora.write import as_tensors, write_lora

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class LoRA:
    """A LoRA: its layers by full module name, and where they come from.

    A full name is the component (`unet`, `text_encoder`, `text_encoder_2`), a dot, and the module's name in diffusers'
    `named_modules()`, for example `unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
    """

    layers: Mapping[str, LoraLayer]
    dialect: str = "memory"  # how the keys of the source are named; see `lorarar.lora.DIALECTS`
    source: str = "memory"  # the file's path, or what the LoRA was made by
    metadata: Mapping[str, str] = field(default_factory=dict)  # of the file; of a merge, how it was made
    warnings: tuple[str, ...] = ()  # what reading left out or had to assume, one sentence each

    def __post_init__(self) -> None:
        """Refuse layers and metadata of other types."""
        if not _is_mapping(self.layers, LoraLayer):
            raise InputError(f"{self.source}: `layers` are no LoraLayers by their names; give a dict of them")
        if not _is_mapping(self.metadata, str):
            raise InputError(f"{self.source}: `metadata` are not all texts; give a dict of texts")

    def __repr__(self) -> str:
        return f"LoRA({Path(self.source).name}: {self.dialect}, {len(self.layers)} layers, {self.ranks})"

    @property
    def max_rank(self) -> int:
        """The largest rank of a layer; 0 when there is no layer."""
        return max((layer.rank for layer in self.layers.values()), default=0)

    @property
    def ranks(self) -> str:
        """The ranks of the layers in words: `rank 16`, or `ranks 4–64`."""
        ranks = sorted({layer.rank for layer in self.layers.values()}) or [0]
        return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}–{ranks[-1]}"

    def save(self, path: str | os.PathLike[str], dialect: str = "peft", dtype: str = "fp32") -> None:
        """Write a safetensors file that diffusers and PEFT apply exactly; as `kohya` ComfyUI and WebUIs do too.

        `dialect` is `peft` or `kohya`, `dtype` is `fp32` (exact), `fp16` or `bf16`.
        The file appears whole or not at all, and the same LoRA always gives the same bytes. Raises InputError as
        `lorarar.lora.write_lora`.
        """
        write_lora(self, path, dialect, dtype)

    def to_state_dict(self, dialect: str = "peft", dtype: str = "fp32") -> dict[str, Tensor]:
        """Return the tensors of the file that `save` would write, by their names, for `pipe.load_lora_weights`.

        They are torch tensors on the CPU, since diffusers and PEFT take no others; `layers` holds the numpy arrays.
        Raises InputError as `save`, and where torch is not installed.
        """
        return as_tensors(self, dialect, dtype)


def _is_mapping(given: object, kind: type) -> bool:
    pairs = given.items() if isinstance(given, Mapping) else [(None, None)]
    return all(isinstance(name, str) and isinstance(value, kind) for name, value in pairs)


def check_made(lora: LoRA) -> None:
    """Refuse a LoRA made in Python with a layer of rank 0, NaN or ∞; files are checked when they are read."""
    for name, layer in lora.layers.items():
        if layer.rank < 1:
            raise InputError(f"{lora.source}: {name} has rank 0; give each layer a rank of 1 or more")
        factors = () if isinstance(layer, StoredLayer) else (layer.down, layer.up)
        if not all(map(math.isfinite, map(peak, factors))):
            raise InputError(f"{lora.source}: {name} holds NaN or infinity; fix the LoRA")
