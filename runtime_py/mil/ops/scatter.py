"""Writing values at indices (MIL's scatter_gather.scatter*, slice_update)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from runtime_py.mil.ops.places import slices

Array = np.ndarray
Flag = np.ndarray | bool

_COMBINED: dict[str, Callable[..., Any]] = {
    "add": np.add.at,
    "sub": np.subtract.at,
    "mul": np.multiply.at,
    "div": np.divide.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}
"""MIL's mode → numpy's function that takes an index more than once, where it is given more than once."""


def scatter(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array | int = 0,
    mode: str = "add",
    validate_indices: Flag | None = None,
) -> Array:
    """Return data with slices of an axis changed by the updates, one for each index."""
    along = int(axis) % data.ndim
    return _changed(data, (*[slice(None)] * along, indices), updates, mode, validate_indices is not None)


def scatter_along_axis(
    data: Array,
    indices: Array,
    updates: Array,
    axis: Array | int = 0,
    mode: str = "add",
    validate_indices: Flag | None = None,
) -> Array:
    """Return data with single elements changed: an index is the place on the axis, its own place that on the others."""
    grid: list[Array] = list(np.indices(indices.shape, sparse=True))
    grid[int(axis)] = indices
    return _changed(data, tuple(grid), updates, mode, validate_indices is not None)


def scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: Flag | None = None
) -> Array:
    """Return data with slices changed at the positions that the last axis of the indices holds."""
    return _changed(data, tuple(np.moveaxis(indices, -1, 0)), updates, mode, validate_indices is not None)


def slice_update(
    x: Array,
    update: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """Return x with the slice that slice_by_index would take replaced by the update."""
    result = x.copy()
    place = slices(begin, end, stride, begin_mask, end_mask, squeeze_mask)
    if result[place].shape != update.shape:
        raise ValueError(f"its update has shape {list(update.shape)}, and the slice {list(result[place].shape)}")
    result[place] = update
    return result


def _changed(data: Array, place: tuple[Any, ...], updates: Array, mode: str, from_0: bool) -> Array:
    """Return data changed at a place.

    Up to iOS 16 indices may count from an axis' end; from iOS 17 on, where a program says whether they are validated,
    they count from 0. Others are refused, validated or not: the spec leaves their result open.
    """
    if from_0 and any(isinstance(part, np.ndarray) and part.size and part.min() < 0 for part in place):
        raise IndexError("an index is below 0")
    result = data.copy()
    if mode == "update":
        result[place] = updates
    elif mode in _COMBINED:
        _COMBINED[mode](result, place, updates)
    else:
        raise ValueError(f"its mode {mode!r} is none of the spec's")
    return result
