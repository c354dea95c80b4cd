"""Products: matmul, linear, einsum, attention and convolutions (MIL's linear, conv and transformers)."""

from __future__ import annotations

import math

import numpy as np

from runtime_py.mil.ops.normalization import softmax
from runtime_py.mil.ops.places import Edges, edges_of, padding, per_axis

Array = np.ndarray
Flag = np.ndarray | bool


def matmul(x: Array, y: Array, transpose_x: Flag = False, transpose_y: Flag = False) -> Array:
    """Return x @ y over the last two axes, the others broadcast; a one-dimensional operand is never transposed."""
    left = x.swapaxes(-1, -2) if transpose_x and x.ndim > 1 else x
    right = y.swapaxes(-1, -2) if transpose_y and y.ndim > 1 else y
    return np.asarray(left @ right)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return x @ weightᵀ + bias."""
    # One large product: numpy would run a stack of matrices one by one.
    rows = x.reshape(-1, x.shape[-1]) @ weight.T
    if bias is not None:
        rows += bias
    return rows.reshape(*x.shape[:-1], weight.shape[0])


def einsum(values: list[Array], equation: str) -> Array:
    """Return the sum of products that the equation names."""
    given, _, out = equation.replace(" ", "").partition("->")
    names = given.split(",")
    plain = len(names) == len(values) == 2 and "." not in equation and all(len(set(n)) == len(n) for n in names)
    if plain:
        left, right = (dict(zip(labels, value.shape, strict=True)) for labels, value in zip(names, values, strict=True))
        # An axis of 1 that the other operand repeats is for numpy's own.
        plain = all(right.get(label, size) == size for label, size in left.items())
    # What only one operand has must be in the result, or it would have to be summed first.
    if not plain or set(names[0]) ^ set(names[1]) != set(out) - (set(names[0]) & set(names[1])):
        return np.asarray(np.einsum(equation, *values, optimize=True))
    # numpy's own would run products with shared axes in a plain loop, a hundred times slower than BLAS.
    rows, columns = ([name for name in names[side] if name not in names[1 - side]] for side in (0, 1))
    shared = [name for name in names[0] if name in names[1]]
    batch, summed = ([name for name in shared if (name in out) == kept] for kept in (True, False))
    sizes = left | right

    def stacked(value: Array, labels: str, first: list[str], second: list[str]) -> Array:
        order = [labels.index(name) for name in (*batch, *first, *second)]
        shape = [math.prod(sizes[name] for name in part) for part in (batch, first, second)]
        return value.transpose(order).reshape(shape)

    product = stacked(values[0], names[0], rows, summed) @ stacked(values[1], names[1], summed, columns)
    made = [*batch, *rows, *columns]
    return product.reshape([sizes[name] for name in made]).transpose([made.index(name) for name in out])


def scaled_dot_product_attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    """Return softmax(query · keyᵀ / √E + mask) · value; a boolean mask says which keys take part."""
    scores = (query / np.float32(math.sqrt(query.shape[-1]))) @ key.swapaxes(-1, -2)
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    return np.asarray(softmax(scores) @ value)


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """Convolve (N, C, *D) with (C_out, C/groups, *K) over any number of spatial axes."""
    kernel = weight.shape[2:]
    steps, spread = per_axis(strides, kernel), per_axis(dilations, kernel)
    reach = [(size - 1) * wide + 1 for size, wide in zip(kernel, spread, strict=True)]
    edges = padding(pad_type, pad, x.shape[2:], reach, steps)
    count = int(groups)
    alone = count == x.shape[1] == len(weight)
    # Unfolding copies the input for every element of a filter; shifting it lays out the filters anew instead.
    shifts = alone or (count == 1 and x.shape[1] >= _FEW and math.prod(x.shape[2:]) > len(weight))
    if shifts and all(step == 1 for step in steps) and any(size > 1 for size in kernel):
        if alone and len(kernel) == 2 and x.shape[-1] <= _NARROW * kernel[1]:
            return _by_bands(x, weight, bias, spread, edges)
        return _by_offsets(x, weight, bias, spread, edges, alone)
    padded = np.pad(x, [(0, 0), (0, 0), *edges]) if any(map(any, edges)) else x
    if all(size == 1 for size in kernel):
        return _by_points(padded[:, :, *(slice(None, None, step) for step in steps)], weight, bias, count)
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    every = [slice(None, None, step) for step in (*steps, *spread)]
    return _products(windows[:, :, *every], weight, bias, count)


_FEW = 16  # channels: with fewer, one large product of unfolded windows is faster than one for every tap
_NARROW = 7  # widths of a depthwise filter: in wider images most of a band is zeros, and shifting is faster


def _by_points(x: Array, weight: Array, bias: Array | None, groups: int) -> Array:
    """Convolve with filters of one element: a product over the channels of every point."""
    columns = x.reshape(len(x), groups, x.shape[1] // groups, -1)
    result = (weight.reshape(groups, len(weight) // groups, -1) @ columns).reshape(len(x), len(weight), *x.shape[2:])
    return result if bias is None else np.add(result, bias.reshape(-1, *[1] * (x.ndim - 2)), out=result)


def _by_bands(x: Array, weight: Array, bias: Array | None, spread: list[int], edges: Edges) -> Array:
    """Convolve each channel of an image by itself, by steps of 1: rows of the input times rows of the filter.

    A row of the filter is laid out as a matrix, a band along its diagonal, that gives all places of a result's row.
    """
    kernel = weight.shape[2:]
    padded = [size + sum(edge) for size, edge in zip(x.shape[2:], edges, strict=True)]
    height, width = _sizes(padded, kernel, spread)
    inside = [slice(before, before + size) for (before, _), size in zip(edges, x.shape[2:], strict=True)]
    result = np.empty((*x.shape[:2], height, width), np.result_type(x, weight))
    at, several = np.arange(width), max(1, _BANDS // (4 * kernel[0] * padded[1] * width))
    for channels in (slice(first, first + several) for first in range(0, len(weight), several)):
        filters = weight[channels, 0]
        bands = np.zeros((len(filters), kernel[0], padded[1], width), result.dtype)
        for column in range(kernel[1]):
            bands[:, :, at + column * spread[1], at] = filters[:, :, column, None]
        rows = np.zeros((len(filters), *padded), result.dtype)
        for image in range(len(x)):
            rows[:, *inside] = x[image, channels]
            total = result[image, channels]
            total[:] = 0 if bias is None else bias[channels].reshape(-1, 1, 1)
            for row in range(kernel[0]):
                first = row * spread[0]
                total += rows[:, first : first + height] @ bands[:, row]
    return result


def _sizes(padded: list[int], kernel: tuple[int, ...], spread: list[int]) -> list[int]:
    """Return how many places a filter has along each axis, in steps of 1."""
    sizes = [size - (width - 1) * wide for size, width, wide in zip(padded, kernel, spread, strict=True)]
    if min(sizes) < 1:
        raise ValueError(f"filters of {list(kernel)} are larger than the padded input of {padded}")
    return sizes


def _by_offsets(x: Array, weight: Array, bias: Array | None, spread: list[int], edges: Edges, alone: bool) -> Array:
    """Convolve by steps of 1: one element of the filters at a time, as a product with the whole input, shifted.

    In a padded input whose rows lie one after the other every shift is a slice, and no window has to be copied. What
    lies beyond a row's end is computed too, and left out. `alone` is a depthwise convolution.
    """
    kernel = weight.shape[2:]
    padded = [size + sum(edge) for size, edge in zip(x.shape[2:], edges, strict=True)]
    sizes = _sizes(padded, kernel, spread)
    strides = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
    taps = [(at, sum(i * w * s for i, w, s in zip(at, spread, strides, strict=True))) for at in np.ndindex(*kernel)]
    filters = [np.ascontiguousarray(weight[:, :, *at]) for at, _ in taps]
    inside = [slice(before, before + size) for (before, _), size in zip(edges, x.shape[2:], strict=True)]
    flat = np.zeros((x.shape[1], math.prod(padded) + taps[-1][1]), x.dtype)
    result = np.empty((len(x), len(weight), *sizes), np.result_type(x, weight))
    rows = max(1, (_IN_CACHE if alone else _UNFOLDED) // (4 * (1 if alone else len(weight)) * strides[0]))
    several = max(1, _IN_CACHE // (4 * min(rows, sizes[0]) * strides[0])) if alone else len(weight)
    ones = [1] * len(sizes)
    for image in range(len(x)):
        flat[:, : math.prod(padded)].reshape(-1, *padded)[:, *inside] = x[image]
        for first, channel in ((r, c) for r in range(0, sizes[0], rows) for c in range(0, len(weight), several)):
            count = min(rows, sizes[0] - first)
            channels = slice(channel, channel + several)
            total = np.zeros((len(weight[channels]), count * strides[0]), result.dtype)
            part = np.empty_like(total)
            for (_, offset), each in zip(taps, filters, strict=True):
                start = first * strides[0] + offset
                shifted = flat[channels if alone else slice(None), start : start + total.shape[1]]
                if alone:
                    np.multiply(shifted, each[channels], out=part)
                else:
                    np.matmul(each, shifted, out=part)
                total += part
            kept = total.reshape(-1, count, *padded[1:])[:, :, *(slice(size) for size in sizes[1:])]
            offsets = 0 if bias is None else bias[channels].reshape(-1, *ones)
            np.add(kept, offsets, out=result[image, channels, first : first + count])
    return result


_BANDS = 4 << 20  # bytes of bands held at once
_IN_CACHE = 128 << 10  # bytes of a depthwise convolution's channels that are worked on at once
# Bytes of the unfolded input held at once: enough for full-speed products, little beside a UNet's tensors.
_UNFOLDED = 64 << 20


def _products(windows: Array, weight: Array, bias: Array | None, groups: int) -> Array:
    """Multiply every window (N, C, *out, *K) by every filter, a few rows of the first spatial axis at a time."""
    spatial = (windows.ndim - 2) // 2
    batch, channels, *sizes = windows.shape[: 2 + spatial]
    filters = weight.reshape(groups, weight.shape[0] // groups, -1)
    depth = weight[0].size
    row = 4 * channels * math.prod(weight.shape[2:]) * math.prod(sizes[1:])
    rows = max(1, _UNFOLDED // max(row, 1))
    result = np.empty((batch, weight.shape[0], *sizes), np.result_type(windows, weight))
    order = (0, *range(1 + spatial, 1 + 2 * spatial), *range(1, 1 + spatial))  # (C, *K, *out)
    for image, start in ((n, first) for n in range(batch) for first in range(0, sizes[0], rows)):
        part = windows[image, :, start : start + rows].transpose(order)
        columns = part.reshape(groups, depth, math.prod(part.shape[1 + spatial :]))
        out = (filters @ columns).reshape(weight.shape[0], -1, *sizes[1:])
        result[image, :, start : start + rows] = out
    if bias is not None:
        result += bias.reshape(-1, *[1] * spatial)
    return result


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Array | None = None,
    output_shape: Array | None = None,
    pad_type: str = "valid",
    strides: Array | None = None,
    dilations: Array | None = None,
    groups: Array | int = 1,
) -> Array:
    """Return conv's gradient: every value of (N, C, *D) spreads a filter of (C, C_out/groups, *K) over the output."""
    kernel, sizes, count = weight.shape[2:], x.shape[2:], int(groups)
    steps, spread = per_axis(strides, kernel), per_axis(dilations, kernel)
    axes = list(zip(sizes, kernel, steps, spread, strict=True))
    full = [(size - 1) * step + (width - 1) * wide + 1 for size, width, step, wide in axes]
    filters = weight.reshape(count, x.shape[1] // count, -1).swapaxes(1, 2)
    columns = filters @ x.reshape(x.shape[0], count, x.shape[1] // count, -1)
    columns = columns.reshape(x.shape[0], weight.shape[1] * count, *kernel, *sizes)
    kept = _crop(pad_type, pad, full, sizes, steps, output_shape)
    # A wanted output may end after the last value that anything is added to.
    ends = [max(size, part.stop) for size, part in zip(full, kept, strict=True)]
    spread_out = np.zeros((*columns.shape[:2], *ends), columns.dtype)
    for at in np.ndindex(*kernel):
        place = [
            slice(k * wide, k * wide + (size - 1) * step + 1, step)
            for k, (size, _, step, wide) in zip(at, axes, strict=True)
        ]
        spread_out[:, :, *place] += columns[:, :, *at]
    result = spread_out[:, :, *kept]
    return result if bias is None else result + bias.reshape(-1, *[1] * len(kernel))


def _crop(
    pad_type: str, pad: Array | None, full: list[int], sizes: tuple[int, ...], steps: list[int], shape: Array | None
) -> list[slice]:
    """Return what a transposed convolution keeps of its full result; `shape` is the whole output's, when given."""
    wanted = [0] * len(full) if shape is None else [int(size) for size in shape[2:]]
    if pad_type in ("same", "same_lower"):
        keeps = [want or size * step for want, size, step in zip(wanted, sizes, steps, strict=True)]
        starts = [max(0, size - keep) // 2 for size, keep in zip(full, keeps, strict=True)]
    else:
        edges = edges_of(pad_type, pad, len(full))
        starts = [before for before, _ in edges]
        keeps = [want or size - sum(edge) for want, size, edge in zip(wanted, full, edges, strict=True)]
    return [slice(start, start + keep) for start, keep in zip(starts, keeps, strict=True)]
