"""Images as bytes, and as the networks see them."""

from __future__ import annotations

from jaxtyping import Float, UInt8
from torch import Tensor


def to_pixels(images: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
    """Turn bytes into numbers in [-1, 1], channels first."""
    return (images.float() / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def to_bytes(pixels: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n h w 3"]:
    """Turn numbers in [-1, 1], channels first, into bytes; those beyond are cut off."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous()
