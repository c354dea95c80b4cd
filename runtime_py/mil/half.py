"""Conversion to and from half precision, bit for bit as numpy's casts and several times faster.

numpy converts one element after the other, and sets a floating-point flag for each that underflows or overflows, at
100 ns each; LoRA factors are full of both. Here every step is one operation on the bits of many elements.
"""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 15  # elements whose temporaries stay in a core's cache
_SMALLEST_NORMAL = np.float32(2.0**-14).view(np.uint32)
_INFINITY = np.float32(np.inf).view(np.uint32)
_OVERFLOW = np.float32(65520).view(np.uint32)  # halfway between the largest half and the next power of two
# float32's spacing around 0.75 is 2⁻²⁴, a subnormal half's: adding 0.75 rounds to it, ties to even as it should be.
_SHIFT = np.float32(0.75)
_WIDENED = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def to_half(x: np.ndarray) -> np.ndarray:
    """Round an array to the nearest halves, ties to even."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    result = np.empty(flat.shape, np.uint16)
    for start in range(0, flat.size, _CHUNK):
        result[start : start + _CHUNK] = _half_bits(flat[start : start + _CHUNK])
    return result.view(np.float16).reshape(x.shape)


def from_half(x: np.ndarray) -> np.ndarray:
    """Widen an array of halves to float32."""
    # All are in range, and this mode doesn't ask. Of an array without axes it takes a number.
    return np.asarray(_WIDENED.take(x.view(np.uint16), mode="clip"))


def nearest_half(x: np.ndarray) -> np.ndarray:
    """Round an array to the nearest halves, ties to even, and leave it float32."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1)
    result = np.empty(flat.shape, np.float32)
    for start in range(0, flat.size, _CHUNK):
        _round(flat[start : start + _CHUNK], result[start : start + _CHUNK])
    return result.reshape(x.shape)


def _round(x: np.ndarray, result: np.ndarray) -> None:
    bits, rounded = x.view(np.uint32), result.view(np.uint32)
    np.right_shift(bits, 13, out=rounded)
    rounded &= 1  # the last bit that stays
    rounded += bits
    rounded += np.uint32(0x0FFF)  # a half of that bit, less one: a tie goes up where the bit is 1
    rounded &= np.uint32(0xFFFFE000)
    size = bits & 0x7FFFFFFF
    small = size < _SMALLEST_NORMAL
    if small.any():
        np.copyto(rounded, ((x + _SHIFT) - _SHIFT).view(np.uint32) | (bits & 0x80000000), where=small)
    if size.max(initial=0) >= _OVERFLOW:
        np.copyto(rounded, bits & 0x80000000 | _INFINITY, where=size >= _OVERFLOW)
        np.copyto(rounded, bits, where=size > _INFINITY)  # NaN


def _half_bits(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32)
    size = bits & 0x7FFFFFFF
    half = size >> 13
    half &= 1  # the last bit that stays
    half += size
    half += np.uint32(0x0FFF)  # a half of that bit, less one: a tie goes up where the bit is 1
    half >>= 13
    half -= np.uint32(112 << 10)  # from an exponent of bias 127 to one of 15
    small = size < _SMALLEST_NORMAL
    if small.any():
        np.copyto(half, (np.abs(x) + _SHIFT).view(np.uint32) - _SHIFT.view(np.uint32), where=small)
    if size.max(initial=0) >= _OVERFLOW:
        np.copyto(half, np.uint32(0x7C00), where=size >= _OVERFLOW)
        nan = size > _INFINITY
        half[nan] = 0x7C00 | np.maximum(size[nan] >> 13 & 0x3FF, 1)
    sign = bits >> np.uint32(16)
    sign &= np.uint32(0x8000)
    half |= sign
    return half
