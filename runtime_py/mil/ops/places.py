"""Where operations read and write: slices, points between pixels, and the padding of convolutions and pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Edges = list[tuple[int, int]]


def per_axis(values: Array | None, kernel: Sequence[int]) -> list[int]:
    """Return strides or dilations, 1 on every axis of a kernel where none are given."""
    return [1] * len(kernel) if values is None else [int(value) for value in values]


def edges_of(pad_type: str, pad: Array | None, axes: int) -> Edges:
    """Return the `valid` or `custom` padding before and after each spatial axis."""
    widths = [0] * (2 * axes) if pad is None or pad_type == "valid" else [int(width) for width in pad]
    return list(zip(widths[::2], widths[1::2], strict=True))


def padding(
    pad_type: str, pad: Array | None, sizes: Sequence[int], reach: Sequence[int], steps: Sequence[int]
) -> Edges:
    """Return the padding before and after each spatial axis; of an odd number, `same` puts one more after it, and
    `same_lower` before.
    """
    if pad_type in ("valid", "custom"):
        return edges_of(pad_type, pad, len(sizes))
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"its pad_type {pad_type!r} is none of the spec's")
    totals = [
        max(0, (math.ceil(size / step) - 1) * step + width - size)
        for size, width, step in zip(sizes, reach, steps, strict=True)
    ]
    if pad_type == "same":
        return [(total // 2, total - total // 2) for total in totals]
    return [(total - total // 2, total // 2) for total in totals]


def slices(
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> tuple[Any, ...]:
    """Return numpy's index of what slice_by_index takes."""

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
    return (*index, ...)


def points(old: int | float, new: int, mode: str) -> Array:
    """Return where each output pixel samples an axis of `old` pixels, before clamping (the table in resize_bilinear's
    spec).
    """
    index = np.arange(new, dtype=np.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if new == 1:
            return np.array([(old - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0])
        return index * (old - 1) / (new - 1)
    if mode == "DEFAULT":
        return index * old / new
    if mode == "OFFSET_CORNERS":
        return (index + 0.5) * max(1, old - 1) / new
    if mode == "UNALIGN_CORNERS":
        return (index + 0.5) * old / new - 0.5
    raise ValueError(f"its sampling_mode {mode!r} is none of the spec's")
