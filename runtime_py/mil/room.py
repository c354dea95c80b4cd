"""Tell the size of a result before it is made, where numbers in the file decide it: damaged ones ask for terabytes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.graph import Step
from runtime_py.mil.ops.places import padding
from runtime_py.mil.values import TensorType

Sizes = tuple[int, ...]
LONGEST_LIST = 1 << 24  # elements that make_list may ask for


def check_room(step: Step, given: Mapping[str, Any]) -> None:
    """Raise InputError where a result would not be of its declared type, or would not fit into memory."""
    if step.type not in _SIZES:
        return
    sizes = _SIZES[step.type](**given)
    kind = next(iter(step.outputs.values()), None)
    if isinstance(kind, TensorType) and not kind.accepts(sizes):
        raise InputError(f"{step} would make a tensor of {list(sizes)}, but declares {kind}; export it again")
    # Eight bytes: several operations count in float64 or with int64 indices.
    need, there = 8 * math.prod(sizes), _free_bytes()
    if need > there:
        raise InputError(f"{step} would take {need / 2**30:.0f} GiB of {there / 2**30:.0f}; give smaller inputs")


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    steps = [1] * len(kernel) if strides is None else _numbers(strides)
    spread = [1] * len(kernel) if dilations is None else _numbers(dilations)
    reach = [(size - 1) * wide + 1 for size, wide in zip(kernel, spread, strict=True)]
    edges = padding(pad_type, pad, np.shape(x)[2:], reach, steps)
    axes = zip(np.shape(x)[2:], edges, reach, steps, strict=True)
    return len(x), len(weight), *((size + sum(edge) - width) // step + 1 for size, edge, width, step in axes)


def _affine(x: Any, output_height: Any, output_width: Any, **_: Any) -> Sizes:
    return *np.shape(x)[:2], int(output_height), int(output_width)


def _make_list(init_length: Any = 1, **_: Any) -> Sizes:
    if int(init_length) > LONGEST_LIST:
        raise ValueError(f"its list of {int(init_length)} elements is longer than {LONGEST_LIST}")
    return (int(init_length),)


_SIZES: Mapping[str, Callable[..., Sizes]] = {
    "affine": _affine,
    "conv": _conv,
    "fill": lambda shape, **_: _numbers(shape),
    "make_list": _make_list,
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
