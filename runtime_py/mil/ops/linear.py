"""Products: matmul, linear, einsum, attention and convolutions (MIL's linear, conv and transformers)."""

from __future__ import annotations

import math

import numpy as np

from runtime_py.mil.ops.normalization import softmax
from runtime_py.mil.ops.places import edges_of, padding

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
    # What only one operand has must be in the result, or it would have to be summed first.
    if not plain or set(names[0]) ^ set(names[1]) != set(out) - (set(names[0]) & set(names[1])):
        return np.asarray(np.einsum(equation, *values, optimize=True))
    # numpy's own would run products with shared axes in a plain loop, a hundred times slower than BLAS.
    left, right = ([name for name in names[side] if name not in names[1 - side]] for side in (0, 1))
    shared = [name for name in names[0] if name in names[1]]
    batch, summed = ([name for name in shared if (name in out) == kept] for kept in (True, False))
    sizes = dict(zip(names[0] + names[1], values[0].shape + values[1].shape, strict=True))

    def stacked(value: Array, labels: str, rows: list[str], columns: list[str]) -> Array:
        order = [labels.index(name) for name in (*batch, *rows, *columns)]
        shape = [math.prod(sizes[name] for name in part) for part in (batch, rows, columns)]
        return value.transpose(order).reshape(shape)

    product = stacked(values[0], names[0], left, summed) @ stacked(values[1], names[1], summed, right)
    made = [*batch, *left, *right]
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
    steps, spread = _per_axis(strides, kernel), _per_axis(dilations, kernel)
    reach = [(size - 1) * wide + 1 for size, wide in zip(kernel, spread, strict=True)]
    edges = padding(pad_type, pad, x.shape[2:], reach, steps)
    padded = np.pad(x, [(0, 0), (0, 0), *edges]) if any(map(any, edges)) else x
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    every = [slice(None, None, step) for step in (*steps, *spread)]
    return _products(windows[:, :, *every], weight, bias, int(groups))


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
    steps, spread = _per_axis(strides, kernel), _per_axis(dilations, kernel)
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


def _per_axis(values: Array | None, kernel: tuple[int, ...]) -> list[int]:
    return [1] * len(kernel) if values is None else [int(value) for value in values]
