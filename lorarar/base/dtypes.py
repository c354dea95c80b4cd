"""The number formats that a user chooses by name, and torch's dtypes for them."""

from __future__ import annotations

import torch

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""A format's name, or that of a mixed precision (`no`: none), → the dtype of weights that are frozen in it."""


def fastest_precision(device: torch.device) -> str:
    """Return the mixed precision to train with where none is given: bf16 on a GPU that has it, else `no`."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"
