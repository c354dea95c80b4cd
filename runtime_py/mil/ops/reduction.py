"""Reductions (MIL's reduction), and cumsum. Sums of floats are accumulated in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Flag = np.ndarray | bool


def cumsum(x: Array, axis: Array | int = 0, exclusive: Flag = False, reverse: Flag = False) -> Array:
    """Sum up along an axis, from its end when `reverse`, and without the element itself when `exclusive`."""
    along = int(axis)
    values = np.flip(x, along) if reverse else x
    result = np.cumsum(values, along, dtype=_exact(x))
    if exclusive:
        # Shifted rather than subtracted again, which would lose digits.
        first = np.zeros_like(result.take([0], along))
        result = np.concatenate([first, result.take(range(result.shape[along] - 1), along)], along)
    return np.flip(result, along) if reverse else result


def _over_axes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a reduction of (x, axis, keepdims) MIL's parameter names; without axes it takes all."""

    def op(x: Array, axes: Array | None = None, keep_dims: Flag = False) -> Any:
        over = None if axes is None else tuple(int(axis) for axis in axes)
        return function(x, axis=over, keepdims=bool(keep_dims))

    return op


def _over_axis(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a search for an index, of (x, axis, keepdims), MIL's parameter names."""

    def op(x: Array, axis: Array | int = -1, keep_dims: Flag = False, output_dtype: str = "int32") -> Any:
        return function(x, axis=int(axis), keepdims=bool(keep_dims)).astype(output_dtype)

    return op


def _exact(x: Array) -> np.dtype[Any]:
    """Return the type to sum in: float64 for floats, and the same one for integers."""
    return np.dtype(np.float64) if x.dtype.kind == "f" else x.dtype


def _sum(x: Array, **over: Any) -> Any:
    return np.sum(x, dtype=_exact(x), **over)


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Any:
    """Return ln Σ eˣ, shifted by the largest value so that nothing overflows."""
    peak = np.max(x, axis=axis, keepdims=True)
    result = np.log(_sum(np.exp(x - peak), axis=axis, keepdims=True)) + peak
    return result if keepdims else np.squeeze(result, axis)


TABLE: dict[str, Callable[..., Any]] = {
    "reduce_argmax": _over_axis(np.argmax),
    "reduce_argmin": _over_axis(np.argmin),
    "reduce_l1_norm": _over_axes(lambda x, **over: _sum(np.abs(x), **over)),
    "reduce_l2_norm": _over_axes(lambda x, **over: np.sqrt(_sum(np.square(x), **over))),
    "reduce_log_sum": _over_axes(lambda x, **over: np.log(_sum(x, **over))),
    "reduce_log_sum_exp": _over_axes(_log_sum_exp),
    "reduce_max": _over_axes(np.max),
    "reduce_mean": _over_axes(lambda x, **over: np.mean(x, dtype=np.float64, **over)),
    "reduce_min": _over_axes(np.min),
    "reduce_prod": _over_axes(np.prod),
    "reduce_sum": _over_axes(_sum),
    "reduce_sum_square": _over_axes(lambda x, **over: _sum(np.square(x), **over)),
}
