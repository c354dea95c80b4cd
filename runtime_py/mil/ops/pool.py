"""Pools over the spatial axes of (N, C, *D) (MIL's pool). Sums are accumulated in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from runtime_py.mil.ops.places import padding, per_axis

Array = np.ndarray
Flag = np.ndarray | bool


def max_pool(
    x: Array,
    kernel_sizes: Array,
    pad_type: str,
    strides: Array | None = None,
    pad: Array | None = None,
    ceil_mode: Flag = False,
) -> Array:
    """Return the largest value of every window."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    result = np.full(windows.shape, -np.inf, x.dtype)
    for tap in windows.taps(-np.inf):
        np.maximum(result, tap, out=result)
    return result


def avg_pool(
    x: Array,
    kernel_sizes: Array,
    pad_type: str,
    exclude_padding_from_average: Flag = False,
    strides: Array | None = None,
    pad: Array | None = None,
    ceil_mode: Flag = False,
) -> Array:
    """Return the mean of every window; what `ceil_mode` reaches beyond the padding is never counted."""
    windows = _Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    counts = windows.counts(with_padding=not exclude_padding_from_average)
    return np.asarray(windows.total(np.asarray) / np.maximum(counts, 1))


def l2_pool(
    x: Array,
    kernel_sizes: Array,
    pad_type: str,
    strides: Array | None = None,
    pad: Array | None = None,
    ceil_mode: Flag = False,
) -> Array:
    """Return the norm of every window."""
    return np.asarray(np.sqrt(_Windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode).total(np.square)))


class _Windows:
    """The windows of a pool, one tap at a time: a tap holds the same element of every window."""

    def __init__(
        self, x: Array, kernel: Array, strides: Array | None, pad_type: str, pad: Array | None, ceil_mode: Flag
    ) -> None:
        self.x, self.kernel = x, [int(size) for size in kernel]
        self.steps = per_axis(strides, self.kernel)
        sizes = x.shape[2:]
        if len(sizes) != len(self.kernel) or min(self.kernel, default=0) < 1 or min(self.steps, default=0) < 1:
            raise ValueError(f"windows of {self.kernel} by steps of {self.steps} do not fit {len(sizes)} spatial axes")
        self.edges = padding(pad_type, pad, sizes, self.kernel, self.steps)
        axes = zip(sizes, self.edges, self.kernel, self.steps, strict=True)
        self.counts_out = [_windows_along(size, edge, width, step, bool(ceil_mode)) for size, edge, width, step in axes]
        if min(self.counts_out, default=0) < 1:
            raise ValueError(f"windows of {self.kernel} are larger than the padded input of {list(sizes)}")
        self.shape = (*x.shape[:2], *self.counts_out)

    def taps(self, outside: float) -> Iterator[Array]:
        """Yield every tap; what lies outside the input is `outside`."""
        widths = [(0, 0), (0, 0)]
        for size, (before, after), end in zip(self.x.shape[2:], self.edges, self._ends(), strict=True):
            widths.append((before, max(after, end - before - size)))
        padded = np.pad(self.x, widths, constant_values=outside) if any(map(any, widths)) else self.x
        for at in product(*map(range, self.kernel)):
            yield padded[:, :, *self._places(at)]

    def total(self, of: Callable[[Array], Array]) -> Array:
        """Sum up every window's values after a function of arrays."""
        result = np.zeros(self.shape, np.float64)
        for tap in self.taps(0.0):
            result += of(tap)
        return result

    def counts(self, with_padding: bool) -> Array:
        """Return how many elements every window has inside the input, or inside it and its padding."""
        result = np.ones((), np.float64)
        for axis, (size, (before, after)) in enumerate(zip(self.x.shape[2:], self.edges, strict=True)):
            first = np.arange(self.counts_out[axis]) * self.steps[axis]
            low, high = (0, before + size + after) if with_padding else (before, before + size)
            inside = np.minimum(first + self.kernel[axis], high) - np.maximum(first, low)
            result = result[..., None] * np.maximum(inside, 0)
        return result

    def _ends(self) -> list[int]:
        """Return where the last window ends on every axis, counted from the padding's start."""
        counts = zip(self.counts_out, self.steps, self.kernel, strict=True)
        return [(count - 1) * step + width for count, step, width in counts]

    def _places(self, at: tuple[int, ...]) -> list[slice]:
        axes = zip(at, self.steps, self.counts_out, strict=True)
        return [slice(start, start + (count - 1) * step + 1, step) for start, step, count in axes]


def _windows_along(size: int, edge: tuple[int, int], width: int, step: int, ceil_mode: bool) -> int:
    room = size + sum(edge) - width
    if not ceil_mode:
        return room // step + 1
    count = math.ceil(room / step) + 1
    # A window that would start in the padding after the input is left out.
    return count - 1 if (count - 1) * step >= size + edge[0] else count
