"""`weight.bin`, the file of a Core ML package that holds its large constants (MIL's blob storage, version 2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.values import TensorType, unpack

ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
HEADER = struct.Struct("<II")  # number of blobs, version; the rest of 64 bytes is reserved
METADATA = struct.Struct("<IIQQQ")  # sentinel, type, bytes, offset of the data, unused bits of the last byte


@dataclass(frozen=True)
class Blob:
    """One constant in a weights file, checked but not read."""

    kind: TensorType
    data: np.ndarray  # its bytes, a view of the memory map

    def read(self) -> np.ndarray:
        """Return the constant as an array: a view of the file, or unpacked when its type is narrower than a byte."""
        return unpack(self.data, self.kind)


class WeightsFile:
    """A memory-mapped weights file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _bytes(self) -> np.ndarray:
        if not self.path.is_file():
            raise InputError(
                f"{self.path} is missing, though the program refers to it; copy or export the whole package"
            )
        if self.path.stat().st_size < ALIGNMENT:
            raise InputError(f"{self.path} is shorter than its header; copy or export the package again")
        mapped = np.memmap(self.path, np.uint8, mode="r")
        version = HEADER.unpack(mapped[: HEADER.size].tobytes())[1]
        if version != VERSION:
            raise InputError(f"{self.path} has storage version {version}; only {VERSION} is known, export it again")
        # A plain view: numpy's memmap class is slow to slice and to pass through operations.
        return mapped.view(np.ndarray)

    def blob(self, offset: int, kind: TensorType, what: str) -> Blob:
        """Return the blob whose metadata is at `offset`. Raises InputError unless it holds just a tensor of `kind`."""
        data, where = self._bytes, f"{self.path}: {what} at byte {offset}"
        if offset % ALIGNMENT or not ALIGNMENT <= offset <= len(data) - ALIGNMENT:
            raise InputError(f"{where} is not inside the file; it is cut off or damaged, copy or export it again")
        sentinel, code, size, start, spare_bits = METADATA.unpack(data[offset : offset + METADATA.size].tobytes())
        if sentinel != SENTINEL:
            raise InputError(f"{where} has no blob (its mark is {sentinel:#x}); copy or export the package again")
        if kind.dtype.blob is None or code != kind.dtype.blob:
            raise InputError(f"{where} has stored type {code}, but the program declares {kind}; export it again")
        if size != kind.nbytes or spare_bits != size * 8 - kind.count * kind.dtype.bits:
            raise InputError(f"{where} has {size} bytes, but {kind} takes {kind.nbytes}; copy or export it again")
        if start % ALIGNMENT or start < offset + ALIGNMENT or start + size > len(data):
            raise InputError(f"{where} has data outside the file; it is cut off or damaged, copy or export it again")
        return Blob(kind, data[start : start + size])
