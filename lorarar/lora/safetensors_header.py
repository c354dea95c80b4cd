"""The header of a safetensors file, checked completely before anything is allocated. Numpy only.

The format: eight bytes with the header's length (little endian), the header (a JSON object: tensor name → dtype, shape,
data_offsets; `__metadata__` → strings), then the tensors' bytes without gap or overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from lorarar.errors import InputError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_HEADER_VALUES = 2_000_000  # parsed JSON takes up to 200 bytes a value, so this bounds the memory of parsing
MAX_DIMENSIONS = 8
METADATA_KEY = "__metadata__"

# Bits an element, for every dtype of the format; a LoRA may use only the floating-point ones of `FLOATS`.
BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True)
class TensorInfo:
    """The element type of a tensor, in safetensors' words, and its shape, which are known before it is read."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorEntry(TensorInfo):
    """A tensor of a file, and its first and last-plus-one byte after the header."""

    begin: int
    end: int


def shorten(text: str, limit: int = 120) -> str:
    """Make a name from a stranger's file safe to print: no control characters, at most `limit` characters."""
    clean = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object from a stranger's bytes. `what` names it in errors, as in `L.safetensors: its header`.

    Raises InputError when it is not UTF-8, not JSON, too deep, too large, has a key twice or is no object.
    """
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_HEADER_VALUES:
        raise InputError(f"{what} has over {MAX_HEADER_VALUES:,} values, which no LoRA needs; get the file again")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(f"{what} has the key '{shorten(key)}' twice; save the file again without duplicates")
            found[key] = value
        return found

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=_no_constant)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not UTF-8 text; the file is damaged, get it again") from error
    except RecursionError as error:
        raise InputError(f"{what} is nested too deeply to be a LoRA's; the file is damaged, get it again") from error
    except ValueError as error:
        raise InputError(f"{what} is not valid JSON; the file is damaged, get it again") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{what} is not a JSON object; the file is damaged, get it again")
    return parsed


def parse_header(data: bytes, data_bytes: int, source: str) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Return the entries and the metadata of a header; `data_bytes` is how many bytes follow it in the file.

    Raises InputError for anything that the format forbids, a tensor that the file does not hold included.
    """
    header = parse_json(data, f"{source}: its header")
    metadata = _metadata(header.pop(METADATA_KEY, {}), source)
    entries = {name: _entry(name, entry, data_bytes, source) for name, entry in header.items()}
    position, last = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            fault = "overlap" if entry.begin < position else "leave a gap"
            raise InputError(
                f"{source}: '{shorten(last)}' and '{shorten(name)}' {fault} in the data; "
                "the file is damaged, get it again"
            )
        position, last = entry.end, name
    if position != data_bytes:
        raise InputError(
            f"{source}: the tensors take {position:,} bytes but {data_bytes:,} follow the header; "
            "the file is damaged, get it again"
        )
    return entries, metadata


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _metadata(value: Any, source: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise InputError(f"{source}: __metadata__ holds something other than strings; save the file again")
    return dict(value)


def _entry(name: str, value: Any, data_bytes: int, source: str) -> TensorEntry:
    where = f"{source}: the header's entry for '{shorten(name)}'"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{where} must have dtype, shape and data_offsets only; the file is damaged, get it again")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InputError(f"{where} has the unknown dtype {shorten(str(dtype), 40)}; valid for a LoRA: {_valid()}")
    if not _naturals(shape, 0) or len(shape) > MAX_DIMENSIONS:
        raise InputError(f"{where} has a shape that is not a short list of sizes; the file is damaged, get it again")
    if not _naturals(offsets, 2) or offsets[0] > offsets[1]:
        raise InputError(f"{where} has offsets that are no byte range; the file is damaged, get it again")
    if offsets[1] > data_bytes:
        raise InputError(
            f"{where} ends at byte {offsets[1]:,} but the file holds {data_bytes:,}; it is cut short, get it again"
        )
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise InputError(
            f"{where} has shape {shape} in {dtype} but {offsets[1] - offsets[0]:,} bytes; "
            "the file is damaged, get it again"
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any, length: int) -> bool:
    """Tell whether `value` is a list of integers in [0, 2^63), of that length (0: any). JSON's true is no integer."""
    return (
        isinstance(value, list)
        and (not length or len(value) == length)
        and all(type(number) is int and 0 <= number < 2**63 for number in value)
    )


def _valid() -> str:
    return ", ".join(FLOATS)
