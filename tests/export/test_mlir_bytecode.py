"""The names of a program's constants, and nothing else, become their numbers."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from export.targets.mlir_bytecode import _number, _read_number, number_constants


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**49 - 1, 2**49, 2**56 - 1, 2**56, 2**64 - 1])
def test_numbers_of_every_length_come_back(value: int) -> None:
    coded = _number(value)
    assert _read_number(b"?" + coded + b"\xff", 1) == (value, 1 + len(coded))
    # MLIR's rule: seven bits a byte, and a first byte of zero before eight whole ones.
    assert len(coded) == next((size for size in range(1, 9) if value < 2 ** (7 * size)), 9)


def section(number: int, data: bytes, alignment: int | None = None, place: int = 0) -> bytes:
    if alignment is None:
        return bytes([number]) + _number(len(data)) + data
    head = bytes([number | 0x80]) + _number(len(data)) + _number(alignment)
    return head + b"\xcb" * (-(place + len(head)) % alignment) + data


def strings(*texts: bytes) -> bytes:
    sizes = b"".join(_number(len(text) + 1) for text in reversed(texts))
    return _number(len(texts)) + sizes + b"".join(text + b"\0" for text in texts)


def program(names: tuple[bytes, ...], weights: bytes = struct.pack("<4f", 1, 2, 3, 4)) -> bytes:
    start = b"ML\xefR" + _number(6) + b"MLIR\0" + section(4, b"operations")
    return (
        start + section(5, weights, 16, len(start)) + section(0, strings(b"main", *names)) + section(8, b"properties")
    )


def test_programs_that_differ_in_names_alone_become_the_same(tmp_path: Path) -> None:
    made = []
    for number, names in enumerate(((b"resource_17", b"resource_4242424242424242"), (b"resource_9", b"resource_123"))):
        path = tmp_path / f"{number}.mlirb"
        path.write_bytes(program((names[0], b"resource_x", names[1])))
        number_constants(path)
        made.append(path.read_bytes())
    assert made[0] == made[1] == program((b"resource_0", b"resource_x", b"resource_1"))
    number_constants(path)
    assert path.read_bytes() == made[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not a program at all", "no MLIR bytecode"),
        (program((b"resource_1",)) + section(5, b"\0" * 16, 16, 999), "has an alignment"),
        (program(()).replace(section(0, strings(b"main")), section(0, strings(b"main") + b"?")), "do not end"),
    ],
)
def test_what_is_laid_out_otherwise_is_left_as_it_is(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "main.mlirb"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)):
        number_constants(path)
    assert path.read_bytes() == data
