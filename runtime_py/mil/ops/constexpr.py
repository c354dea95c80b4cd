"""Compressed weights: constants made dense when they are needed (MIL's iOS16 constexpr_ops, iOS18 compression).

The evaluator rounds each result to its declared type in both modes, because that is the weight the program means.
"""

from __future__ import annotations

import math

import numpy as np

from runtime_py.mil.values import unpack_bits

Array = np.ndarray


def constexpr_affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """Return scale · (data - zero_point), both one number or one for each index of `axis`."""
    shape = [1] * quantized_data.ndim
    shape[int(axis)] = -1
    offset = zero_point.reshape(shape).astype(np.float32)
    return np.asarray((quantized_data - offset) * scale.reshape(shape))


def constexpr_blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """Return scale · (data - offset), one of each for every block; the blocks tile the data evenly."""
    grouped, per_block = _blocks(data.shape, scale.shape)
    result = data.astype(scale.dtype).reshape(grouped)
    if offset is not None:
        result = result - offset.reshape(per_block).astype(scale.dtype)
    return np.asarray(result * scale.reshape(per_block)).reshape(data.shape)


def constexpr_lut_to_dense(
    indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None
) -> Array:
    """Return table entries by index. With `shape` (iOS 16) the indices are packed bits of one table; otherwise (iOS 18)
    each block of indices has its own table, whose entries may be vectors laid along `vector_axis`.
    """
    if shape is not None:
        sizes = [int(size) for size in shape]
        return lut[unpack_bits(indices, lut.size.bit_length() - 1, math.prod(sizes))].reshape(sizes)
    *blocks, entries, length = lut.shape
    grouped, per_block = _blocks(indices.shape, tuple(blocks))
    tables = np.arange(math.prod(blocks), dtype=np.intp).reshape(per_block) * entries
    dense = lut.reshape(-1, length)[(indices.reshape(grouped) + tables).reshape(indices.shape)]
    if vector_axis is None:
        return dense[..., 0]
    axis = int(vector_axis) % indices.ndim
    sizes = [size * length if at == axis else size for at, size in enumerate(indices.shape)]
    return np.moveaxis(dense, -1, axis + 1).reshape(sizes)


def constexpr_sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """Return the values at the mask's ones, zeros elsewhere. With `shape` (iOS 16) the mask is packed bits."""
    if shape is not None:
        sizes = [int(size) for size in shape]
        mask = unpack_bits(mask, 1, math.prod(sizes)).reshape(sizes)
    result = np.zeros(mask.shape, nonzero_data.dtype)
    result[mask != 0] = nonzero_data
    return result


def constexpr_lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Array | None = None
) -> tuple[Array, Array]:
    """Return constexpr_lut_to_dense of the values a mask keeps: the mask of the result and its values."""
    indices = constexpr_sparse_to_dense(indices_nonzero_data, indices_mask)
    dense = constexpr_lut_to_dense(indices, lut, vector_axis=vector_axis)
    mask = indices_mask if vector_axis is None else np.repeat(indices_mask, lut.shape[-1], int(vector_axis))
    return mask, dense[mask != 0]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Array, nonzero_data: Array, scale: Array, offset: Array | None = None
) -> tuple[Array, Array]:
    """Return constexpr_blockwise_shift_scale of the values a mask keeps: the mask and the values."""
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def constexpr_cast(source_val: Array, output_dtype: str) -> Array:
    """Return half precision as single; the operand arrives widened."""
    if output_dtype != "fp32":
        raise ValueError(f"its output_dtype {output_dtype!r} is not fp32, the only one of the spec")
    return source_val


def _blocks(data: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return shapes that pair every element of `data` with its block: (b0, n0, b1, n1, …) and (b0, 1, b1, 1, …)."""
    if len(data) != len(blocks) or any(count < 1 or size % count for size, count in zip(data, blocks, strict=True)):
        raise ValueError(f"blocks of {list(blocks)} do not tile data of {list(data)}")
    grouped, per_block = [], []
    for size, count in zip(data, blocks, strict=True):
        grouped += [count, size // count]
        per_block += [count, 1]
    return grouped, per_block
