"""Operations that rearrange, pick or make values without arithmetic (MIL's tensor_operation, tensor_transformation,
scatter_gather and control_flow.select). They return views where numpy can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime_py.mil.ops.places import slices

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
    "tile": lambda x, reps: np.tile(x, reps.tolist()),
    "transpose": lambda x, perm: x.transpose(perm.tolist()),
}
"""MIL's name → its formula, with MIL's parameters and defaults."""


def reshape(x: Array, shape: Array) -> Array:
    """Return x in another shape: one -1 is worked out, and a 0 keeps the size of an axis.

    Of as many axes it is the same one; of another number (iOS 17) both shapes are laid side by side from their ends,
    and an axis that x does not have is 1.
    """
    sizes = [int(size) for size in shape]
    if 0 in sizes and x.size:
        kept = [1] * max(0, len(sizes) - x.ndim) + list(x.shape[max(0, x.ndim - len(sizes)) :])
        sizes = [size or keep for size, keep in zip(sizes, kept, strict=True)]
    return x.reshape(sizes)


def reshape_like(
    x: Array, ref_tensors: list[Array], begins: list[Array], ends: list[Array], end_masks: list[Array]
) -> Array:
    """Return x in a shape that is put together from parts of other tensors' shapes."""
    sizes: list[int] = []
    for ref, begin, end, is_open in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += ref.shape[int(begin) : None if is_open else int(end)]
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
    return x[slices(begin, end, stride, begin_mask, end_mask, squeeze_mask)]


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
    """Join tensors along a new axis."""
    return np.stack(values, int(axis))


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


def depth_to_space(x: Array, block_size: Array) -> Array:
    """Turn (N, r²·C, H, W) into (N, C, H·r, W·r); unlike pixel_shuffle's, a block's pixels lie C channels apart."""
    batch, channels, height, width = x.shape
    factor = int(block_size)
    grid = x.reshape(batch, factor, factor, channels // factor**2, height, width).transpose(0, 3, 4, 1, 5, 2)
    return grid.reshape(batch, channels // factor**2, height * factor, width * factor)


def space_to_depth(x: Array, block_size: Array) -> Array:
    """Turn (N, C, H·r, W·r) into (N, r²·C, H, W), depth_to_space's inverse."""
    batch, channels, height, width = x.shape
    factor = int(block_size)
    grid = x.reshape(batch, channels, height // factor, factor, width // factor, factor).transpose(0, 3, 5, 1, 2, 4)
    return grid.reshape(batch, channels * factor**2, height // factor, width // factor)


def space_to_batch(x: Array, block_shape: Array, paddings: Array) -> Array:
    """Turn the padded (N, C, H·p, W·q) into (p·q·N, C, H, W)."""
    rows, columns = (int(size) for size in block_shape)
    padded = np.pad(x, [(0, 0), (0, 0), *((int(before), int(after)) for before, after in paddings)])
    batch, channels, height, width = padded.shape
    grid = padded.reshape(batch, channels, height // rows, rows, width // columns, columns).transpose(3, 5, 0, 1, 2, 4)
    return grid.reshape(rows * columns * batch, channels, height // rows, width // columns)


def batch_to_space(x: Array, block_shape: Array, crops: Array) -> Array:
    """Turn (p·q·N, C, H, W) into (N, C, H·p, W·q), and take rows and columns off its edges."""
    rows, columns = (int(size) for size in block_shape)
    batch, channels, height, width = x.shape
    grid = x.reshape(rows, columns, batch // (rows * columns), channels, height, width).transpose(2, 3, 4, 0, 5, 1)
    whole = grid.reshape(batch // (rows * columns), channels, height * rows, width * columns)
    (top, bottom), (left, right) = crops.tolist()
    return whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]


def reverse_sequence(x: Array, lengths: Array, seq_axis: Array | int = 0, batch_axis: Array | int = 0) -> Array:
    """Reverse the first lengths[i] elements along an axis, for each index i of another one."""
    size = x.shape[int(seq_axis)]
    place, length = np.arange(size), lengths.astype(np.intp)[:, None]
    order = np.where(place < length, length - 1 - place, place)
    shape = [1] * x.ndim
    shape[int(batch_axis)], shape[int(seq_axis)] = order.shape
    if int(batch_axis) % x.ndim > int(seq_axis) % x.ndim:
        order = order.T
    return np.take_along_axis(x, order.reshape(shape), int(seq_axis))


def sliding_windows(x: Array, axis: Array, size: Array, stride: Array | int = 1) -> Array:
    """Return every window of an axis, with the places inside a window as a new axis after it."""
    along = int(axis) % x.ndim
    windows = np.lib.stride_tricks.sliding_window_view(x, int(size), along)
    every = [slice(None)] * along + [slice(None, None, int(stride))]
    return np.moveaxis(windows[tuple(every)], -1, along + 1)
