"""The noise that an image starts from: the same for a seed on every device and in every language.

The golden tensors' mix32 gives uniform numbers, and Box and Muller's method makes them normal. A phone does not have
PyTorch's generator.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from runtime_py.golden import GOLDEN_RATIO, mix32

NOISE = "mix32-box-muller"
NOISE_TEXT = (
    "uint32 arithmetic, mix as in golden_generator. Element i (row-major, from 0) of seed s: "
    "a = mix(2i + s*0x9E3779B9), b = mix(2i + 1 + s*0x9E3779B9); u = (a + 0.5) / 2^32, v = b / 2^32; "
    "sqrt(-2 ln u) * cos(2 pi v), in float64, rounded to float32."
)
MAX_SEED = 2**32 - 1


def normal_noise(shape: tuple[int, ...], seed: int) -> Float[np.ndarray, "..."]:
    """Return independent numbers of mean 0 and variance 1; `seed` is a whole number from 0 to MAX_SEED."""
    size = int(np.prod(shape, dtype=np.int64))
    counter = np.arange(2 * size, dtype=np.uint64) + np.uint64(seed * GOLDEN_RATIO & 0xFFFFFFFF)
    mixed = mix32(counter.astype(np.uint32)).astype(np.float64)
    u, v = (mixed[0::2] + 0.5) / 2**32, mixed[1::2] / 2**32
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.float32).reshape(shape)
