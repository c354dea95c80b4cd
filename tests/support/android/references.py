"""What compiled classes ask for of other classes: their constant pools, read without loading them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Tag → the bytes of a constant after its tag (JVM specification, 4.4). A Utf8 has its own length.
_SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
_UTF8 = 1
_MEMBERS = (9, 10, 11)
_TWO_PLACES = (5, 6)


@dataclass(frozen=True, order=True)
class Reference:
    """A method or field of another class, or of this one: `java/lang/Math`, `rint`, `(D)D`."""

    owner: str
    name: str
    descriptor: str


def of_jar(jar: Path, prefix: str = "") -> set[Reference]:
    """Every method that the classes of a jar call, and every field that they read or write; `prefix` is of classes."""
    return {reference for data in _classes(jar, prefix) for reference in _of_class(data)}


def declared_in(jar: Path) -> set[Reference]:
    """Every method and field that the classes of a jar declare, private ones too."""
    return {reference for data in _classes(jar) for reference in _declared(data)}


def _classes(jar: Path, prefix: str = "") -> Iterator[bytes]:
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if name.startswith(prefix) and name.endswith(".class"):
                yield archive.read(name)


def _declared(data: bytes) -> Iterator[Reference]:
    constants, at = _constants(data)
    owner, interfaces = struct.unpack_from(">H", data, at + 2)[0], struct.unpack_from(">H", data, at + 6)[0]
    (owner_name,) = struct.unpack(">H", constants[owner][1])
    at += 8 + 2 * interfaces
    for _ in ("fields", "methods"):
        (count,) = struct.unpack_from(">H", data, at)
        at += 2
        for _ in range(count):
            _, name, descriptor, attributes = struct.unpack_from(">HHHH", data, at)
            at += 8
            for _ in range(attributes):
                at += 6 + struct.unpack_from(">I", data, at + 2)[0]
            yield Reference(*(constants[place][1].decode() for place in (owner_name, name, descriptor)))


def _of_class(data: bytes) -> Iterator[Reference]:
    constants, _ = _constants(data)

    def text(at: int) -> str:
        return constants[at][1].decode("utf-8", "replace")

    for tag, raw in constants.values():
        if tag in _MEMBERS:
            owner, pair = struct.unpack(">HH", raw)
            name, descriptor = struct.unpack(">HH", constants[pair][1])
            (owner_name,) = struct.unpack(">H", constants[owner][1])
            yield Reference(text(owner_name), text(name), text(descriptor))


def _constants(data: bytes) -> tuple[dict[int, tuple[int, bytes]], int]:
    """Every constant by its number, and where the rest of the class begins."""
    (count,) = struct.unpack_from(">H", data, 8)
    found, at, index = {}, 10, 1
    while index < count:
        tag = data[at]
        start = at + 3 if tag == _UTF8 else at + 1
        size = struct.unpack_from(">H", data, at + 1)[0] if tag == _UTF8 else _SIZES[tag]
        found[index] = (tag, data[start : start + size])
        at = start + size
        index += 2 if tag in _TWO_PLACES else 1
    return found, at
