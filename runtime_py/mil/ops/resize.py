"""Resizing of the last two axes, and of the last `resized_dims` from iOS 17 on (MIL's image_resizing)."""

from __future__ import annotations

import math

import numpy as np

from runtime_py.mil.ops.places import points

Array = np.ndarray
Flag = np.ndarray | bool
Number = np.ndarray | float


def upsample_nearest_neighbor(x: Array, scale_factor_height: Number = 1.0, scale_factor_width: Number = 1.0) -> Array:
    """Repeat pixels by the two factors."""
    return _nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


def resize_nearest_neighbor(x: Array, target_size_height: Array, target_size_width: Array) -> Array:
    """Return the nearest pixels at a given size."""
    return _nearest(x, [int(target_size_height), int(target_size_width)])


def upsample_bilinear(
    x: Array,
    scale_factor_height: Number = 1.0,
    scale_factor_width: Number = 1.0,
    align_corners: Flag = True,
    half_pixel_centers: Flag | None = None,
) -> Array:
    """Interpolate by the two factors; pixel centres are at halves unless the corners are aligned."""
    halves = not align_corners if half_pixel_centers is None else bool(half_pixel_centers)
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if halves else "DEFAULT"
    return _linear(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


def resize_bilinear(
    x: Array,
    target_size_height: Array | int = 1,
    target_size_width: Array | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Interpolate to a given size."""
    return _linear(x, [int(target_size_height), int(target_size_width)], sampling_mode)


def resize(
    x: Array,
    shape: Array,
    resized_dims: Array,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """Resize the last `resized_dims` axes to the last sizes of `shape`; a 0 keeps the axis as it is."""
    count = int(resized_dims)
    wanted = [int(size) for size in shape[shape.size - count :]]
    sizes = [new or old for new, old in zip(wanted, x.shape[x.ndim - count :], strict=True)]
    if interpolation_mode == "LINEAR":
        return _linear(x, sizes, sampling_mode)
    if interpolation_mode != "NEAREST_NEIGHBOR":
        raise ValueError(f"its interpolation_mode {interpolation_mode!r} is none of the spec's")
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        near = np.floor(points(x.shape[axis], size, sampling_mode) + 0.5).clip(0, x.shape[axis] - 1)
        x = x.take(near.astype(np.intp), axis)
    return x


def _scaled(x: Array, height: Number, width: Number) -> list[int]:
    return [math.floor(x.shape[-2] * float(height)), math.floor(x.shape[-1] * float(width))]


def _nearest(x: Array, sizes: list[int]) -> Array:
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        x = x.take(np.arange(size) * x.shape[axis] // size, axis)
    return x


def _linear(x: Array, sizes: list[int], mode: str) -> Array:
    for axis, size in zip(range(-len(sizes), 0), sizes, strict=True):
        point = np.clip(points(x.shape[axis], size, mode), 0, x.shape[axis] - 1)
        low = np.floor(point).astype(np.intp)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = (point - low).astype(np.float32).reshape(-1, *[1] * (-1 - axis))
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x
