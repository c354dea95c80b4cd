"""Rounding to half precision and widening, bit for bit as numpy's casts and several times faster.

numpy converts one element after the other, and sets a floating-point flag for each that underflows or overflows, at
100 ns each; LoRA factors are full of both. Here every step is one operation on many elements.
"""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 16  # elements whose temporaries stay in a core's cache
_SMALLEST_NORMAL = np.float32(2.0**-14).view(np.uint32)
_EXPONENT = np.float32(np.inf).view(np.uint32)
_SIGN = np.float32(-0.0).view(np.uint32)
_SMALLEST = np.float32(2.0**-24).view(np.uint32)  # of the subnormal ones; what is below may become zero
_LARGE = np.float32(2.0**15).view(np.uint32)  # halves end in this power of two
_THIRTEEN_UP = np.uint32(13 << 23 | 1 << 22)
_OVERFLOW = np.float32(65520)  # halfway between the largest half and the next power of two
_WIDENED = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def from_half(x: np.ndarray) -> np.ndarray:
    """Widen an array of halves to float32."""
    # All are in range, and this mode doesn't ask. Of an array without axes it takes a number.
    return np.asarray(_WIDENED.take(x.view(np.uint16), mode="clip"))


def nearest_half(x: np.ndarray, in_place: bool = False) -> np.ndarray:
    """Round an array to the nearest halves, ties to even, and leave it float32.

    `in_place` allows the array itself to be written, which takes half the time; the result has to be used in any case.
    """
    result = x if in_place and x.flags.c_contiguous and x.flags.writeable else np.array(x, np.float32, order="C")
    flat = result.reshape(-1)
    room = np.empty(min(flat.size, _CHUNK), np.uint32)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        _round(part, room[: part.size])
    return result


def _round(x: np.ndarray, room: np.ndarray) -> None:
    """Add a number to each, and take it off again, whose neighbours are as far apart as the halves around x are.

    That is 1.5 · 2¹³ times x's power of two: float32 has 13 bits more than a half. Below the smallest normal half the
    distance stays the same.
    """
    bits = x.view(np.uint32)
    np.bitwise_and(bits, _EXPONENT, out=room)
    signs = bits & _SIGN if room.min(initial=_EXPONENT) < _SMALLEST else None  # a zero loses its own
    old = x.copy() if room.max(initial=0) >= _LARGE else None
    np.maximum(room, _SMALLEST_NORMAL, out=room)
    room += _THIRTEEN_UP
    shift = room.view(np.float32)
    x += shift
    x -= shift
    if signs is not None:
        bits |= signs
    if old is not None:
        np.copyto(x, np.copysign(np.float32(np.inf), old), where=np.abs(old) >= _OVERFLOW)
        np.copyto(x, old, where=np.isnan(old))
