"""Tell the size of a result before it is made, where numbers in the file decide it: damaged ones ask for terabytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import psutil

from lorarar.errors import InputError
from runtime_py.mil.graph import Step
from runtime_py.mil.ops.elementwise import TWO_ARRAYS
from runtime_py.mil.ops.places import padding, per_axis
from runtime_py.mil.values import TensorType

Sizes = tuple[int, ...]


def check_room(step: Step, given: Mapping[str, Any]) -> None:
    """Raise InputError where a result would not be of its declared type, or would not fit into memory."""
    if step.type in _SIZES:
        sizes = _SIZES[step.type](**given)
        kind = next(iter(step.outputs.values()), None)
        if isinstance(kind, TensorType) and not kind.accepts(sizes):
            raise InputError(f"{step} would make a tensor of {list(sizes)}, but declares {kind}; export it again")
        _check_free(step, sizes)
    if step.type in _WORK:
        _check_free(step, _WORK[step.type](**given))


def _check_free(step: Step, sizes: Sizes) -> None:
    # Eight bytes: several operations count in float64 or with int64 indices.
    need, there = 8 * math.prod(max(0, size) for size in sizes), psutil.virtual_memory().available
    if need > there:
        raise InputError(f"{step} would take {need / 2**30:.0f} GiB of {there / 2**30:.0f}; give smaller inputs")


def _numbers(values: Any) -> Sizes:
    return tuple(int(value) for value in np.reshape(values, -1))


def _tile(x: Any, reps: Any) -> Sizes:
    return tuple(size * count for size, count in zip(np.shape(x), _numbers(reps), strict=True))


def _pad(x: Any, pad: Any, **_: Any) -> Sizes:
    widths, sizes = _numbers(pad), list(np.shape(x))
    for axis, at in zip(range(len(sizes) - len(widths) // 2, len(sizes)), range(0, len(widths), 2), strict=True):
        sizes[axis] += widths[at] + widths[at + 1]
    return tuple(sizes)


def _one_hot(indices: Any, one_hot_vector_size: Any, axis: Any = -1, **_: Any) -> Sizes:
    sizes = list(np.shape(indices))
    sizes.insert(int(axis) % (len(sizes) + 1), int(one_hot_vector_size))
    return tuple(sizes)


def _range(start: Any, end: Any, step: Any) -> Sizes:
    return (max(0, math.ceil((float(end) - float(start)) / float(step))),)


def _scaled(x: Any, scale_factor_height: Any = 1, scale_factor_width: Any = 1, **_: Any) -> Sizes:
    *lead, height, width = np.shape(x)
    return *lead, math.floor(height * float(scale_factor_height)), math.floor(width * float(scale_factor_width))


def _resized(x: Any, target_size_height: Any = 1, target_size_width: Any = 1, **_: Any) -> Sizes:
    return *np.shape(x)[:-2], int(target_size_height), int(target_size_width)


def _resize(x: Any, shape: Any, resized_dims: Any, **_: Any) -> Sizes:
    count, sizes = int(resized_dims), np.shape(x)
    wanted = _numbers(shape)[len(np.reshape(shape, -1)) - count :]
    return *sizes[: len(sizes) - count], *(
        new or old for new, old in zip(wanted, sizes[len(sizes) - count :], strict=True)
    )


def _conv(
    x: Any, weight: Any, strides: Any = None, pad_type: str = "valid", pad: Any = None, dilations: Any = None, **_: Any
) -> Sizes:
    kernel = np.shape(weight)[2:]
    steps, spread = per_axis(strides, kernel), per_axis(dilations, kernel)
    reach = [(size - 1) * wide + 1 for size, wide in zip(kernel, spread, strict=True)]
    edges = padding(pad_type, pad, np.shape(x)[2:], reach, steps)
    axes = zip(np.shape(x)[2:], edges, reach, steps, strict=True)
    return len(x), len(weight), *((size + sum(edge) - width) // step + 1 for size, edge, width, step in axes)


def _affine(x: Any, output_height: Any, output_width: Any, **_: Any) -> Sizes:
    return *np.shape(x)[:2], int(output_height), int(output_width)


def _broadcast(**given: Any) -> Sizes:
    return np.broadcast_shapes(*(np.shape(value) for value in given.values() if not isinstance(value, str)))


def _matmul(x: Any, y: Any, transpose_x: Any = False, transpose_y: Any = False) -> Sizes:
    left, right = np.shape(x), np.shape(y)
    rows = () if len(left) == 1 else (left[-1 if transpose_x else -2],)
    columns = () if len(right) == 1 else (right[-2 if transpose_y else -1],)
    return *np.broadcast_shapes(left[:-2], right[:-2]), *rows, *columns


def _einsum(values: Any, equation: str) -> Sizes:
    given, _, out = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for labels, value in zip(given.split(","), values, strict=True):
        for label, size in zip(labels, np.shape(value), strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return tuple(sizes[label] for label in out)


def _gather(x: Any, indices: Any, axis: Any = 0, batch_dims: Any = 0, **_: Any) -> Sizes:
    sizes, places = np.shape(x), np.shape(indices)
    along = int(axis) % len(sizes)
    return *sizes[:along], *places[int(batch_dims) :], *sizes[along + 1 :]


def _gather_nd(x: Any, indices: Any, batch_dims: Any = 0, **_: Any) -> Sizes:
    *places, depth = np.shape(indices)
    return *places, *np.shape(x)[int(batch_dims) + depth :]


def _crop_resize(
    x: Any, roi: Any = None, boxes: Any = None, target_height: Any = 1, target_width: Any = 1, **_: Any
) -> Sizes:
    count, channels = np.shape(x)[:2]
    target = int(target_height), int(target_width)
    if roi is None:
        return len(boxes), channels, *target
    return len(roi), 1 if np.shape(roi)[2] == 5 else count, channels, *target


def _unpacked(shape: Any = None, **given: Any) -> Sizes:
    """Return the sizes of iOS 16's packed weights, whose shape is a number of its own; iOS 18 has that of indices."""
    if shape is not None:
        return _numbers(shape)
    sizes = list(np.shape(given["indices"] if "indices" in given else given["mask"]))
    if given.get("vector_axis") is not None:
        sizes[int(given["vector_axis"])] *= np.shape(given["lut"])[-1]
    return tuple(sizes)


def _padded(
    x: Any, kernel_sizes: Any = None, weight: Any = None, pad_type: str = "valid", pad: Any = None, **_: Any
) -> Sizes:
    """Return what a convolution or a pool pads its input to, at least."""
    kernel = np.shape(weight)[2:] if kernel_sizes is None else _numbers(kernel_sizes)
    edges = padding(pad_type, pad, np.shape(x)[2:], kernel, [1] * len(kernel))
    return *np.shape(x)[:2], *(size + sum(edge) for size, edge in zip(np.shape(x)[2:], edges, strict=True))


def _spread(x: Any, weight: Any, strides: Any = None, dilations: Any = None, **_: Any) -> Sizes:
    """Return the full result of a transposed convolution, before its edges are cut off."""
    kernel = np.shape(weight)[2:]
    steps, wide = per_axis(strides, kernel), per_axis(dilations, kernel)
    axes = zip(np.shape(x)[2:], kernel, steps, wide, strict=True)
    return len(x), np.shape(weight)[1], *((size - 1) * step + (width - 1) * gap + 1 for size, width, step, gap in axes)


def _to_batch(x: Any, block_shape: Any, paddings: Any) -> Sizes:
    *lead, height, width = np.shape(x)
    rows, columns = (sum(pair) for pair in np.reshape(paddings, (2, 2)).tolist())
    return *lead, height + rows, width + columns


def _scores(query: Any, key: Any, **_: Any) -> Sizes:
    return *np.shape(query)[:-1], np.shape(key)[-2]


_SIZES: Mapping[str, Callable[..., Sizes]] = {
    **dict.fromkeys((*TWO_ARRAYS, "select"), _broadcast),
    "affine": _affine,
    **dict.fromkeys(("constexpr_lut_to_dense", "constexpr_sparse_to_dense"), _unpacked),
    "conv": _conv,
    "crop_resize": _crop_resize,
    "einsum": _einsum,
    "fill": lambda shape, **_: _numbers(shape),
    "gather": _gather,
    "gather_along_axis": lambda indices, **_: np.shape(indices),
    "gather_nd": _gather_nd,
    "linear": lambda x, weight, **_: (*np.shape(x)[:-1], len(weight)),
    "matmul": _matmul,
    "one_hot": _one_hot,
    "pad": _pad,
    "random_bernoulli": lambda shape, **_: _numbers(shape),
    "random_categorical": lambda x, size=1, **_: (*np.shape(x)[:-1], int(size)),
    "random_normal": lambda shape, **_: _numbers(shape),
    "random_uniform": lambda shape, **_: _numbers(shape),
    "range_1d": _range,
    "resize": _resize,
    "resize_bilinear": _resized,
    "resize_nearest_neighbor": _resized,
    "tile": _tile,
    "upsample_bilinear": _scaled,
    "upsample_nearest_neighbor": _scaled,
}
"""Operation → the sizes of its (first) result by the values of its inputs."""

_WORK: Mapping[str, Callable[..., Sizes]] = {
    **dict.fromkeys(("conv", "avg_pool", "l2_pool", "max_pool"), _padded),
    "conv_transpose": _spread,
    "scaled_dot_product_attention": _scores,
    "space_to_batch": _to_batch,
}
"""Operation → the sizes of the largest tensor that it makes on its way."""
