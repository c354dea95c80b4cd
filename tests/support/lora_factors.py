"""A LoRA as the tensors that `lorarar.base.attach.attached` takes."""

from __future__ import annotations

import torch

from lorarar.base.attach import Factors
from lorarar.lora import LoRA


def factors_of(
    lora: LoRA, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Factors]:
    """Return a LoRA's linear layers as tensors by full module name, one LoRA for the whole batch."""
    return {
        name: Factors(
            torch.from_numpy(layer.down).to(device, dtype)[None], torch.from_numpy(layer.up).to(device, dtype)[None]
        )
        for name, layer in lora.layers.items()
    }
