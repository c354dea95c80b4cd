"""Operations that rearrange, pick or make values without arithmetic (MIL's tensor_operation, tensor_transformation,
scatter_gather and control_flow.select). They return views where numpy can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Flag = np.ndarray | bool

TABLE: dict[str, Callable[..., Any]] = {
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(axes)),
    "fill": lambda shape, value=0.0: np.full(shape.tolist(), value),
    "fill_like": lambda ref_tensor, value=0.0: np.full(ref_tensor.shape, value),
    "flatten2d": lambda x, axis=1: x.reshape(math.prod(x.shape[: int(axis)]), -1),
    "gather_along_axis": lambda x, indices, axis=0, validate_indices=False: np.take_along_axis(x, indices, int(axis)),
    "identity": lambda x: x,
    "range_1d": lambda start, end, step: np.arange(start.item(), end.item(), step.item()),
    "reverse": lambda x, axes=None: np.flip(x, None if axes is None else tuple(axes)),
    "shape": lambda x: np.array(x.shape, np.int32),
    "squeeze": lambda x, axes=None: np.squeeze(x, None if axes is None else tuple(axes)),
    "stack": lambda values, axis: np.stack(values, int(axis)),
    "tile": lambda x, reps: np.tile(x, reps.tolist()),
    "transpose": lambda x, perm: x.transpose(perm.tolist()),
}
"""MIL's name → its formula, with MIL's parameters and defaults."""


def reshape(x: Array, shape: Array) -> Array:
    """Return x in another shape: 0 keeps the size of the same axis, one -1 is worked out."""
    sizes = [int(size) for size in shape]
    if 0 in sizes and len(sizes) == x.ndim:
        sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def slice_by_index(
    x: Array,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> Array:
    """Return x[begin:end:stride] on every axis; a masked begin or end is open, a squeezed axis is indexed at begin."""

    def masked(mask: Array | None, axis: int) -> bool:
        return mask is not None and bool(mask[axis])

    index: list[int | slice] = []
    for axis, (start, stop) in enumerate(zip(begin, end, strict=True)):
        first = None if masked(begin_mask, axis) else int(start)
        last = None if masked(end_mask, axis) else int(stop)
        if masked(squeeze_mask, axis):
            index.append(first or 0)
        else:
            index.append(slice(first, last, 1 if stride is None else int(stride[axis])))
    # The ellipsis keeps a fully squeezed result an array.
    return x[(*index, ...)]


def slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    """Return `size` elements from `begin` on every axis; a size of -1 takes the rest."""
    starts = [int(start) % max(length, 1) for start, length in zip(begin, x.shape, strict=True)]
    counts = [int(count) for count in size]
    return x[
        tuple(slice(start, None if count == -1 else start + count) for start, count in zip(starts, counts, strict=True))
    ]


def split(
    x: Array, axis: Array, num_splits: Array | None = None, split_sizes: Array | None = None
) -> tuple[Array, ...]:
    """Split x along an axis into parts of these sizes, or of equal ones."""
    if split_sizes is None:
        if num_splits is None:
            raise ValueError("it has neither num_splits nor split_sizes")
        return tuple(np.split(x, int(num_splits), int(axis)))
    ends = np.cumsum(split_sizes)
    if ends[-1] != x.shape[int(axis)]:
        raise ValueError(f"its split_sizes add up to {ends[-1]}, not {x.shape[int(axis)]}")
    return tuple(np.split(x, ends[:-1], int(axis)))


def concat(values: list[Array], axis: Array, interleave: Flag = False) -> Array:
    """Join tensors along an axis, one after the other, or element by element in turn when interleaved."""
    along = int(axis)
    if not interleave:
        # Scalars are joined to a vector, as shapes are put together.
        return np.concatenate([np.atleast_1d(value) for value in values], along)
    along %= values[0].ndim
    shape = list(values[0].shape)
    shape[along] *= len(values)
    return np.stack(values, along + 1).reshape(shape)


def select(cond: Array, a: Array, b: Array) -> Array:
    """Return a where the condition holds, b elsewhere."""
    return np.where(cond, a, b)


def gather(
    x: Array, indices: Array, axis: Array | int = 0, batch_dims: Array | int = 0, validate_indices: Flag = False
) -> Array:
    """Return slices of x along an axis.

    Indices outside it are refused whether or not the program asks for that: the spec leaves their result open, and no
    comparison with it would mean anything.
    """
    batch, along = int(batch_dims), int(axis) % x.ndim
    if batch == 0:
        return np.asarray(x.take(indices, along))
    lead = x.shape[:batch]
    picked = [x[at].take(indices[at], along - batch) for at in np.ndindex(*lead)]
    return np.stack(picked).reshape(*lead, *picked[0].shape)


def gather_nd(x: Array, indices: Array, batch_dims: Array | int = 0, validate_indices: Flag = False) -> Array:
    """Return x at the positions that the last axis of the indices holds."""
    batch = int(batch_dims)
    if batch == 0:
        return np.asarray(x[tuple(np.moveaxis(indices, -1, 0))])
    lead = x.shape[:batch]
    picked = [x[at][tuple(np.moveaxis(indices[at], -1, 0))] for at in np.ndindex(*lead)]
    return np.stack(picked).reshape(*lead, *picked[0].shape)


def one_hot(
    indices: Array,
    one_hot_vector_size: Array,
    axis: Array | int = -1,
    on_value: Array | int = 1,
    off_value: Array | int = 0,
) -> Array:
    """Add an axis that holds on_value at the index and off_value elsewhere."""
    hot = indices[..., None] == np.arange(int(one_hot_vector_size))
    return np.moveaxis(np.where(hot, on_value, off_value), -1, int(axis))


def band_part(x: Array, lower: Array | int = -1, upper: Array | int = -1) -> Array:
    """Put zeros outside a band of the last two axes' diagonals; a negative bound keeps that whole side."""
    below = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
    keep = ((int(lower) < 0) | (below <= int(lower))) & ((int(upper) < 0) | (-below <= int(upper)))
    return np.where(keep, x, np.zeros((), x.dtype))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}  # MIL's name → numpy's


def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Array | float = 0.0) -> Array:
    """Add elements before and after each of the last axes; `pad` holds two numbers for each of them."""
    if mode not in _PAD_MODES:
        raise ValueError(f"its mode {mode!r} is none of the spec's")
    edges = [(int(before), int(after)) for before, after in pad.reshape(-1, 2)]
    widths = [(0, 0)] * (x.ndim - len(edges)) + edges
    if mode == "constant":
        return np.pad(x, widths, constant_values=constant_val)
    return np.pad(x, widths, mode=_PAD_MODES[mode])  # type: ignore[call-overload]


def pixel_shuffle(x: Array, upscale_factor: Array) -> Array:
    """Turn (N, C·r², H, W) into (N, C, H·r, W·r)."""
    batch, channels, height, width = x.shape
    factor = int(upscale_factor)
    grid = x.reshape(batch, channels // factor**2, factor, factor, height, width).transpose(0, 1, 4, 2, 5, 3)
    return grid.reshape(batch, channels // factor**2, height * factor, width * factor)


def pixel_unshuffle(x: Array, downscale_factor: Array) -> Array:
    """Turn (N, C, H·r, W·r) into (N, C·r², H, W)."""
    batch, channels, height, width = x.shape
    factor = int(downscale_factor)
    grid = x.reshape(batch, channels, height // factor, factor, width // factor, factor).transpose(0, 1, 3, 5, 2, 4)
    return grid.reshape(batch, channels * factor**2, height // factor, width // factor)
