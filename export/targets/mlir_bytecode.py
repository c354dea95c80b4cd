"""Rename the constants of a program in MLIR's bytecode, so that the same program always has the same bytes.

Core AI's compiler names a constant by a hash that differs from process to process. The names stand in the section of
strings alone, which comes after the weights: other names move nothing that has an alignment. The format is MLIR's
"Bytecode Format", version 6, of which the header, the sections' frames and the strings are read.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"ML\xefR"
_STRINGS = 0  # the number of the section of strings
_ALIGNED = 0x80  # the bit of a section's number that an alignment follows
_PADDING = 0xCB
_NAME = re.compile(rb"resource_\d+\0")


@dataclass(frozen=True)
class _Section:
    number: int
    frame: int  # the place of the byte where its number and length begin
    begin: int
    end: int
    aligned: bool


def number_constants(path: Path) -> None:
    """Name the constants of a program by their order, in place.

    Raises ValueError where the file is not laid out as described above.
    """
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            sections = list(_sections(data))
            place = next(index for index, section in enumerate(sections) if section.number == _STRINGS)
            strings = sections[place]
            if any(section.aligned for section in sections[place:]):
                raise ValueError(f"{path}: what follows its strings has an alignment; its names can't be changed")
            named = _renamed(data[strings.begin : strings.end])
            tail = b"".join([bytes([_STRINGS]), _number(len(named)), named, data[strings.end :]])
        file.seek(strings.frame)
        file.write(tail)
        file.truncate()


def _sections(data: mmap.mmap) -> Iterator[_Section]:
    if data[:4] != _MAGIC:
        raise ValueError("no MLIR bytecode")
    _, place = _read_number(data, 4)  # the version
    place = data.find(b"\0", place) + 1  # the producer
    while place < len(data):
        frame, kind = place, data[place]
        length, place = _read_number(data, place + 1)
        if kind & _ALIGNED:
            alignment, place = _read_number(data, place)
            while place % alignment and data[place] == _PADDING:
                place += 1
        yield _Section(kind & ~_ALIGNED, frame, place, place + length, bool(kind & _ALIGNED))
        place += length


def _renamed(section: bytes) -> bytes:
    """Return the section of strings with constants numbered. It holds their sizes, last to first, and the strings."""
    count, place = _read_number(section, 0)
    sizes = []
    for _ in range(count):
        size, place = _read_number(section, place)
        sizes.append(size)
    strings, constants = [], 0
    for size in reversed(sizes):
        string = section[place : place + size]
        place += size
        if _NAME.fullmatch(string):
            string, constants = b"resource_%d\0" % constants, constants + 1
        strings.append(string)
    if place != len(section):
        raise ValueError("the strings of the program do not end where their section does")
    return b"".join([_number(count), *(_number(len(string)) for string in reversed(strings)), *strings])


def _read_number(data: bytes | mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number and the place after it. The zero bits at the end of its first byte say how many bytes follow."""
    first = data[place]
    size = (first & -first).bit_length() if first else 9
    value = int.from_bytes(data[place : place + size], "little")
    return (value >> size if first else value >> 8), place + size


def _number(value: int) -> bytes:
    """Return a number in as few bytes as it takes."""
    for size in range(1, 9):
        if value < 1 << 7 * size:
            return (value << size | 1 << (size - 1)).to_bytes(size, "little")
    return b"\0" + value.to_bytes(8, "little")
