"""Golden tensors: inputs that any language can generate, PyTorch's fp32 outputs at stated positions, and statistics.

A golden file stays small at any model size: inputs are never stored, outputs are stored at SAMPLES positions. The same
few lines exist in Kotlin and Swift.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, Num, UInt32

if TYPE_CHECKING:
    from runtime_py.component import Component

SAMPLES = 4096
GENERATOR = "mix32-11bit"
GENERATOR_TEXT = (
    "uint32 arithmetic. mix(x): x ^= x>>16; x *= 0x85EBCA6B; x ^= x>>13; x *= 0xC2B2AE35; x ^= x>>16. "
    "Input element i (row-major, from 0): ((mix(i + seed*0x9E3779B9) >> 21) - 1024) / 1024 * scale, exact in fp16. "
    f"Sampled output position k of {SAMPLES} (or of the tensor's size, if smaller): mix(k) modulo the tensor's size."
)

GOLDEN_RATIO = 0x9E3779B9  # what one seed's numbers are apart from the next one's
WITHOUT = "without"
"""Where a golden file keeps the values of a UNet's output with coefficients of zero: `noise_pred.without`."""
_CHUNK = 1 << 20  # elements mixed at once: their temporaries stay in the cache, which is 4× faster than one pass


def mix32(x: UInt32[np.ndarray, " n"]) -> UInt32[np.ndarray, " n"]:
    """Mix numbers by MurmurHash3's 32-bit finaliser, a bijection whose output bits are balanced. Works on a copy."""
    x = x.copy()
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return x


def generate(shape: tuple[int, ...], seed: int, scale: float, dtype: Any = np.float32) -> Num[np.ndarray, "..."]:
    """Generate one golden input: 2048 levels in [-scale, scale), exact in fp16 when `scale` is a power of two.

    Where `dtype` is one of whole numbers, the levels are cut to such.
    """
    size = int(np.prod(shape, dtype=np.int64))
    out = np.empty(size, dtype)
    offset = (seed * GOLDEN_RATIO) & 0xFFFFFFFF
    for start in range(0, size, _CHUNK):
        stop = min(size, start + _CHUNK)
        counter = (np.arange(start, stop, dtype=np.uint64) + np.uint64(offset)).astype(np.uint32)
        level = (mix32(counter) >> np.uint32(21)).astype(np.float32)
        level -= 1024
        level *= np.float32(scale / 1024)
        out[start:stop] = level
    return out.reshape(shape)


def golden_input(spec: Mapping[str, Any], dtype: Any = np.float32) -> np.ndarray:
    """Make an input of its manifest entry: `{shape, value}` (constant), `{shape, values}` (all of them) or
    `{shape, seed, scale}` (generated).
    """
    shape = tuple(int(size) for size in spec["shape"])
    if "values" in spec:
        return np.array(spec["values"], dtype).reshape(shape)
    if "value" in spec:
        return np.full(shape, spec["value"], dtype)
    return generate(shape, int(spec["seed"]), float(spec["scale"]), dtype)


def golden_inputs(component: Component) -> dict[str, np.ndarray]:
    """Generate all golden inputs of a component, in the types that it takes."""
    dtypes = {spec.name: spec.dtype for spec in component.inputs}
    return {name: golden_input(spec, dtypes[name]) for name, spec in component.golden_inputs.items()}


def positions(size: int) -> Int[np.ndarray, " samples"]:
    """Return the sampled positions of a tensor of `size` elements, in its row-major order."""
    if size == 0:
        return np.zeros(0, np.int64)
    return (mix32(np.arange(min(size, SAMPLES), dtype=np.uint32)) % np.uint32(size)).astype(np.int64)


def sample(tensor: np.ndarray) -> np.ndarray:
    """Return a tensor's values at the sampled positions, in float32."""
    return tensor.reshape(-1)[positions(tensor.size)].astype(np.float32)


def summarise(tensor: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a golden file keeps of one output: sampled `values`; `mean` and `rms` per entry of the first axis.

    The statistics are summed in float64. They reach every element, and so show a wrong layer in which no sample lies.
    """
    rows = tensor.reshape(len(tensor), -1)
    mean = np.array([np.mean(row, dtype=np.float64) for row in rows])
    rms = np.array([np.sqrt(np.mean(np.square(row, dtype=np.float64))) for row in rows])
    return {"values": sample(tensor), "mean": mean, "rms": rms}
