"""Factors as a file stores them, in 8 or 16 bits a number, multiplied and converted without float32 between.

numpy converts half precision in software, 3 to 5 ns a number each way, and a float32 copy takes twice the memory. But
such a tensor has at most 65,536 different values: what happens to them is computed once for each, and a tensor is
converted by one look-up a number. The values are those that the float32 copy would get, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import ml_dtypes
import numpy as np
from jaxtyping import Float32

CODED = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""The element types of 8 and 16 bits, by safetensors' names."""


@dataclass(frozen=True, eq=False)
class Codes:
    """A tensor's numbers as stored (uint8 or uint16), their type in safetensors' words, and what multiplies them."""

    codes: np.ndarray
    dtype: str
    largest: int  # the code of the largest magnitude, without its sign; those of infinity and NaN are above all others
    factors: tuple[float, ...] = ()  # of float32, in this order

    @classmethod
    def of(cls, codes: np.ndarray, dtype: str) -> Codes:
        """Look through the codes of a tensor once for the largest magnitude."""
        sign = 1 << (8 * codes.itemsize - 1)
        # Unsigned, the codes with a sign are above the others; signed, they are below. No copy is made.
        positive, negative = codes.view(f"i{codes.itemsize}").max(initial=0), codes.max(initial=sign)
        return cls(codes, dtype, max(int(positive), int(negative) - sign))

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.codes.shape

    def reshape(self, shape: tuple[int, ...]) -> Codes:
        """Return the same numbers in another shape."""
        return replace(self, codes=self.codes.reshape(shape))

    def __mul__(self, factor: np.float32) -> Codes:
        """Multiply every number by a float32."""
        return self if factor == 1 else replace(self, factors=(*self.factors, float(factor)))

    def astype(self, dtype: np.dtype) -> np.ndarray:
        """Return the numbers: multiplied one factor after the other in float32, then rounded to `dtype`."""
        values = _values(self.dtype, self.factors, np.dtype(dtype))
        return np.asarray(np.take(values, self.codes, mode="clip"))  # of a tensor without dimensions, take makes none

    def peak(self) -> float:
        """Return the largest magnitude, or NaN or infinity where there is one."""
        return float(np.abs(_values(self.dtype, self.factors, np.dtype(np.float32))[self.largest]))


Factor = Float32[np.ndarray, "..."] | Codes
"""A factor of a LoRA: an array of float32, or as it is stored."""


def as_float32(factor: Factor) -> Float32[np.ndarray, "..."]:
    """Return the numbers of a factor; an array is returned as it is."""
    return factor.astype(np.dtype(np.float32)) if isinstance(factor, Codes) else factor


def put(factor: Factor, by: np.float32, out: np.ndarray) -> None:
    """Write a factor times a float32 into an array, rounded to its type."""
    if isinstance(factor, Codes):
        out[...] = (factor * by).astype(out.dtype)
    else:
        out[...] = factor if by == 1 else factor * by


def peak(factor: Factor) -> float:
    """Return the largest magnitude, or NaN when there is one; of an array by two reductions without a copy."""
    if isinstance(factor, Codes):
        return factor.peak()
    return float(np.maximum(factor.max(), -factor.min()))


@lru_cache(256)  # a file has few different scales, and a table takes 256 KiB at most
def _values(stored: str, factors: tuple[float, ...], dtype: np.dtype) -> np.ndarray:
    """Return what each code means."""
    kind = CODED[stored]
    codes = np.arange(2 ** (8 * kind.itemsize), dtype=np.uint8 if kind.itemsize == 1 else np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):  # most tensors hold no such code; `peak` tells
        values = codes.view(kind).astype(np.float32)
        for factor in factors:
            values *= np.float32(factor)
        return values.astype(dtype)
