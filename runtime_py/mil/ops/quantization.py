"""Numbers to and from eight bits (MIL's quantization_ops)."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def quantize(
    input: Array,
    scale: Array,
    output_dtype: str,
    zero_point: Array | None = None,
    axis: Array | None = None,
) -> Array:
    """Return round(input / scale) + zero_point, within the type's range; halves are rounded to even."""
    limits = np.iinfo(output_dtype)
    offset = 0 if zero_point is None else _along(zero_point, input, axis).astype(np.float32)
    shifted = np.round(input / _along(scale, input, axis)) + offset
    return np.clip(shifted, limits.min, limits.max).astype(output_dtype)


def dequantize(
    input: Array,
    scale: Array,
    zero_point: Array | None = None,
    axis: Array | None = None,
) -> Array:
    """Return scale · (input - zero_point)."""
    offset = 0 if zero_point is None else _along(zero_point, input, axis).astype(np.float32)
    return np.asarray((input.astype(np.float32) - offset) * _along(scale, input, axis))


def _along(value: Array, x: Array, axis: Array | None) -> Array:
    """Lay a vector along an axis of x; a single number stays one."""
    if value.ndim == 0 or axis is None:
        return value
    shape = [1] * x.ndim
    shape[int(axis)] = -1
    return value.reshape(shape)
