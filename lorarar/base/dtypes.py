"""The number formats that a user chooses by name, and torch's dtypes for them. Imports torch when called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = {"no": "float32", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""A format's name, or that of a mixed precision (`no`: none), → the name of torch's dtype of weights frozen in it."""


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype for a key of DTYPES."""
    import torch

    found: torch.dtype = getattr(torch, DTYPES[name])
    return found
