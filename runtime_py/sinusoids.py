"""What a UNet is told of time and size: sines and cosines, made outside it, since they need more than fp16."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

TIMESTEP_SINUSOIDS, SIZE_SINUSOIDS = "timestep_sinusoids", "size_sinusoids"
"""The UNet's inputs of the step's time and of SDXL's six sizes: original size, crop corner, target size in pixels."""
SIZES = 6
_LONGEST = 10_000.0


def sinusoids(values: Float[np.ndarray, " n"], width: int) -> Float[np.ndarray, " n_width"]:
    """Return the cosines, then the sines, of each value times `width` / 2 falling frequencies, one value after another.

    The frequencies fall from 1 towards 1/10,000 (Attention Is All You Need, arXiv 1706.03762, §3.5), in diffusers'
    order for SDXL. Frequencies and angles are rounded to fp32 as diffusers rounds them: at t = 999 an angle has an
    error of 3e-5, which would otherwise differ.
    """
    half = width // 2
    exponents = np.float32(-np.log(_LONGEST)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = (values.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32).ravel()
