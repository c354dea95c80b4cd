"""Wear images out, as a small diffusion model and its decoder leave them: soft, noisy, a little off in colour."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

NOISE = 0.08  # largest standard deviation, of a range of 2
TINT = 0.06  # standard deviation of each channel's gain and offset
SHARE = 0.6  # of the images get each kind of wear
KERNEL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def worn(
    images: Float[Tensor, "n 3 h w"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "n 3 h w"]:
    """Blur, coarsen, spoil and tint images in [-1, 1], each to a random extent up to `strength`."""
    count = len(images)

    def extent() -> Float[Tensor, "n 1 1 1"]:
        amount = torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < SHARE)
        return strength * amount.view(count, 1, 1, 1)

    images = torch.lerp(images, _soft(images), extent())
    images = torch.lerp(images, _coarse(images), extent())
    gain, offset = (torch.randn(count, 3, 1, 1, generator=generator) * TINT * strength for _ in range(2))
    images = images * (1 + gain) + offset
    images = images + torch.randn(images.shape, generator=generator) * NOISE * extent()
    return images.clamp(-1, 1)


def worn_images(images: UInt8[np.ndarray, "n h w 3"], generator: torch.Generator) -> UInt8[np.ndarray, "n h w 3"]:
    """Do as `worn` with images of bytes."""
    pixels = worn(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1, generator)
    return ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _soft(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    kernel = torch.outer(KERNEL, KERNEL).expand(3, 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)


def _coarse(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    return F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
