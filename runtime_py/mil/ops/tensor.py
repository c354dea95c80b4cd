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


def reshape(x: Array, shape: Array) -> Array:
    """Return x in another shape: 0 keeps the size of the same axis, one -1 is worked out."""
    sizes = [int(size) for size in shape]
    if 0 in sizes and len(sizes) == x.ndim:
        sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def transpose(x: Array, perm: Array) -> Array:
    """Put the axes in another order."""
    return x.transpose([int(axis) for axis in perm])


def expand_dims(x: Array, axes: Array) -> Array:
    """Add axes of size 1 at these places of the result."""
    return np.expand_dims(x, tuple(int(axis) for axis in axes))


def squeeze(x: Array, axes: Array | None = None) -> Array:
    """Drop axes of size 1: these, or all."""
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


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


def stack(values: list[Array], axis: Array) -> Array:
    """Stack tensors along a new axis."""
    return np.stack(values, int(axis))


def tile(x: Array, reps: Array) -> Array:
    """Return x repeated along every axis."""
    return np.tile(x, [int(count) for count in reps])


def reverse(x: Array, axes: Array | None = None) -> Array:
    """Return x back to front along these axes, or along all."""
    return np.flip(x, None if axes is None else tuple(int(axis) for axis in axes))


def identity(x: Array) -> Array:
    """Return x itself."""
    return x


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


def gather_along_axis(x: Array, indices: Array, axis: Array | int = 0, validate_indices: Flag = False) -> Array:
    """Return x at indices[…] along an axis and at the same place on the others."""
    return np.take_along_axis(x, indices, int(axis))


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


def fill(shape: Array, value: Array | float = 0.0) -> Array:
    """Return one value in a given shape."""
    return np.full([int(size) for size in shape], value)


def fill_like(ref_tensor: Array, value: Array | float = 0.0) -> Array:
    """Return one value in the shape of another tensor."""
    return np.full(ref_tensor.shape, value)


def shape(x: Array) -> Array:
    """Return the sizes of x."""
    return np.array(x.shape, np.int32)


def range_1d(start: Array, end: Array, step: Array) -> Array:
    """Return start, start + step, … below end."""
    return np.arange(start.item(), end.item(), step.item())


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


def flatten2d(x: Array, axis: Array | int = 1) -> Array:
    """Flatten the axes before `axis` to rows, and the others to columns."""
    return x.reshape(math.prod(x.shape[: int(axis)]), -1)


TABLE: dict[str, Callable[..., Any]] = {
    "band_part": band_part,
    "concat": concat,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "flatten2d": flatten2d,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "identity": identity,
    "one_hot": one_hot,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "range_1d": range_1d,
    "reshape": reshape,
    "reverse": reverse,
    "select": select,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
}
