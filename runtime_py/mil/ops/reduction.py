"""Reductions (MIL's reduction), and cumsum. Sums of floats are accumulated in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Flag = np.ndarray | bool
Reduction = Callable[..., Any]


def over_axes(function: Reduction) -> Callable[..., Array]:
    """Give a reduction of (x, axis, keepdims) MIL's parameter names; without axes it takes all."""

    def op(x: Array, axes: Array | None = None, keep_dims: Flag = False) -> Array:
        over = None if axes is None else tuple(int(axis) for axis in axes)
        return np.asarray(function(x, axis=over, keepdims=bool(keep_dims)))

    return op


def over_axis(function: Reduction) -> Callable[..., Array]:
    """Give a search for an index, of (x, axis, keepdims), MIL's parameter names."""

    def op(x: Array, axis: Array | int = -1, keep_dims: Flag = False, output_dtype: str = "int32") -> Array:
        return np.asarray(function(x, axis=int(axis), keepdims=bool(keep_dims))).astype(output_dtype)

    return op


def total(x: Array, **over: Any) -> Any:
    """Return the sum, in float64 for floats and in the same type for integers."""
    return np.sum(x, dtype=np.float64 if x.dtype.kind == "f" else x.dtype, **over)


def mean(x: Array, **over: Any) -> Any:
    """Return the mean."""
    return np.mean(x, dtype=np.float64, **over)


def log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Any:
    """Return ln Σ eˣ, shifted by the largest value so that nothing overflows."""
    peak = np.max(x, axis=axis, keepdims=True)
    result = np.log(total(np.exp(x - peak), axis=axis, keepdims=True)) + peak
    return result if keepdims else np.squeeze(result, axis)


def cumsum(x: Array, axis: Array | int = 0, exclusive: Flag = False, reverse: Flag = False) -> Array:
    """Sum up along an axis, from its end when `reverse`, and without the element itself when `exclusive`."""
    along = int(axis)
    values = np.flip(x, along) if reverse else x
    result = np.cumsum(values, along, dtype=np.float64 if x.dtype.kind == "f" else x.dtype)
    if exclusive:
        # Shifted rather than subtracted again, which would lose digits.
        first = np.zeros_like(result.take([0], along))
        result = np.concatenate([first, result.take(range(result.shape[along] - 1), along)], along)
    return np.flip(result, along) if reverse else result


TABLE: dict[str, Callable[..., Any]] = {
    "cumsum": cumsum,
    "reduce_argmax": over_axis(np.argmax),
    "reduce_argmin": over_axis(np.argmin),
    "reduce_l1_norm": over_axes(lambda x, **over: total(np.abs(x), **over)),
    "reduce_l2_norm": over_axes(lambda x, **over: np.sqrt(total(np.square(x), **over))),
    "reduce_log_sum": over_axes(lambda x, **over: np.log(total(x, **over))),
    "reduce_log_sum_exp": over_axes(log_sum_exp),
    "reduce_max": over_axes(np.max),
    "reduce_mean": over_axes(mean),
    "reduce_min": over_axes(np.min),
    "reduce_prod": over_axes(np.prod),
    "reduce_sum": over_axes(total),
    "reduce_sum_square": over_axes(lambda x, **over: total(np.square(x), **over)),
}
