"""Open a safetensors file from a stranger: checked header, memory-mapped tensors. Numpy only.

The format: eight bytes with the header's length (little endian), the header (a JSON object: tensor name → dtype, shape,
data_offsets; `__metadata__` → strings), then the tensors' bytes without gap or overlap.

The safetensors library reads the same files, but can't replace this reader. It takes a key that occurs twice, an entry
with fields of its own and a null for the metadata, sets no bound on the memory that a header of up to 100 MB is parsed
into, and hands no bf16 to numpy in the oldest release that we allow. Its errors name neither the tensor nor a cure.
"""

from __future__ import annotations

import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError, describe_os_error
from lorarar.files import RepeatedKey, no_constant, once
from lorarar.lora.codes import CODED, Codes, Factor
from lorarar.lora.tensors import FLOATS, TensorInfo, Tensors, shorten

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

_NUMPY = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}

_SNIFFED = 512  # bytes looked at to say what a file that is no safetensors is
# First bytes → what such a file is and what to do; checked only when the file does not open like a safetensors.
_LOOKALIKES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is gzip-compressed; unpack it (gunzip) and use the .safetensors inside"),
    (b"PK\x03\x04", "is a zip or a PyTorch .pt/.ckpt file, which may run code; convert it to safetensors first"),
    (b"\x80", "is a Python pickle, which may run code; convert it to safetensors first"),
    (b"version https://git-lfs", "is a git-lfs pointer, not the file itself; run  git lfs pull  or download it again"),
    (b"<", "is a web page, not a LoRA; the download failed or needs a login, get the file again"),
    (b"GGUF", "is a GGUF model, not a LoRA; use a .safetensors LoRA"),
)


@dataclass(frozen=True)
class TensorEntry(TensorInfo):
    """A tensor of a file, and its first and last-plus-one byte after the header."""

    begin: int
    end: int


def open_safetensors(path: Path) -> Tensors:
    """Check a file's header and map its data.

    Raises InputError when the file is missing, is no regular file, is of another kind, or breaks the format.
    """
    source = str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{source} is not a regular file; give a .safetensors file")
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
            header_bytes = _header_length(start, status.st_size, source)
            file.seek(8)
            header = file.read(header_bytes)
        size = status.st_size - 8 - header_bytes
        entries, metadata = _parse_header(header, size, source)
        # A mapping can't be empty. A plain view: arrays made from numpy's memmap class are of it too, copies also, and
        # every operation on them takes microseconds more.
        mapped = np.memmap(path, np.uint8, "r", 8 + header_bytes, (size,)) if size else np.zeros(0, np.uint8)
        data = mapped.view(np.ndarray)
    except InputError:
        raise
    except OSError as error:
        raise InputError(describe_os_error(error)) from error
    except ValueError as error:  # a path with a NUL byte, or a file that shrank since it was looked at
        raise InputError(f"{source!r} can't be read ({error}); check the path and try again") from error
    return Tensors(source, entries, lambda name: _factor(data, entries[name]), metadata)


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object from a stranger's bytes. `what` names it in errors, as in `L.safetensors: its header`.

    Raises InputError when it is not UTF-8, not JSON, too deep, too large, has a key twice or is no object.
    """
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MAX_HEADER_VALUES:
        raise InputError(f"{what} has over {MAX_HEADER_VALUES:,} values, which no LoRA needs; get the file again")

    try:
        parsed = json.loads(data.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
        if b"\\u" in data:  # JSON can escape half of a surrogate pair
            json.dumps(parsed, ensure_ascii=False).encode()
    except RepeatedKey as error:
        key = shorten(error.key)
        raise InputError(f"{what} has the key '{key}' twice; save the file again without duplicates") from error
    except UnicodeError as error:
        raise _damaged(f"{what} is not UTF-8 text") from error
    except RecursionError as error:
        raise _damaged(f"{what} is nested too deeply to be a LoRA's") from error
    except ValueError as error:
        raise _damaged(f"{what} is not valid JSON") from error
    if not isinstance(parsed, dict):
        raise _damaged(f"{what} is not a JSON object")
    return parsed


def _damaged(fault: str) -> InputError:
    return InputError(f"{fault}; the file is damaged, get it again")


def _header_length(start: bytes, size: int, source: str) -> int:
    if size == 0:
        raise InputError(f"{source} is empty; the download failed, get the file again")
    if start[8:9] != b"{":
        head = start.lstrip()
        for magic, sentence in _LOOKALIKES:
            if start.startswith(magic) or (magic.isascii() and head.startswith(magic)):
                raise InputError(f"{source} {sentence}")
    if len(start) < 8:
        raise InputError(f"{source} has only {size} bytes, so it is cut short; get the file again")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise InputError(
            f"{source} is not a safetensors file, or a damaged one (its header would have {length:,} bytes); "
            "give a LoRA in .safetensors"
        )
    if length > size - 8:
        raise InputError(
            f"{source} is cut short: its header has {length:,} bytes and the file {size:,}; get the file again"
        )
    return length


def _parse_header(data: bytes, data_bytes: int, source: str) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Return the entries and metadata of a header that `data_bytes` follow; InputError for what the format forbids."""
    header = parse_json(data, f"{source}: its header")
    metadata = header.pop(METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise InputError(f"{source}: {METADATA_KEY} holds something other than strings; save the file again")
    entries = {name: _entry(name, entry, data_bytes, source) for name, entry in header.items()}
    position, last = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            fault = "overlap" if entry.begin < position else "leave a gap"
            raise _damaged(f"{source}: '{shorten(last)}' and '{shorten(name)}' {fault} in the data")
        position, last = entry.end, name
    if position != data_bytes:
        raise _damaged(f"{source}: the tensors take {position:,} bytes but {data_bytes:,} follow the header")
    return entries, metadata


def _entry(name: str, value: Any, data_bytes: int, source: str) -> TensorEntry:
    where = f"{source}: the header's entry for '{shorten(name)}'"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"{where} must have dtype, shape and data_offsets only")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        valid = ", ".join(FLOATS)
        raise InputError(f"{where} has the unknown dtype {shorten(str(dtype), 40)}; valid for a LoRA: {valid}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise _damaged(f"{where} has a shape that is not a short list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(f"{where} has offsets that are no byte range")
    begin, end = offsets
    if end > data_bytes:
        raise InputError(
            f"{where} ends at byte {end:,} but the file holds {data_bytes:,}; it is cut short, get it again"
        )
    if math.prod(shape) * BITS[dtype] != 8 * (end - begin):
        raise _damaged(f"{where} has shape {shape} in {dtype} but {end - begin:,} bytes")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _naturals(value: Any) -> bool:
    """Tell whether `value` is a list of integers in [0, 2^63). JSON's true is no integer."""
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _factor(data: np.ndarray, entry: TensorEntry) -> Factor:
    """Return a tensor as stored, in place, or as new float32 values; F64 is rounded, and overflows to infinity."""
    raw = data[entry.begin : entry.end]
    if entry.dtype in CODED:
        return Codes.of(raw.view("<u2" if BITS[entry.dtype] == 16 else "u1").reshape(entry.shape), entry.dtype)
    with np.errstate(over="ignore"):
        return raw.view(_NUMPY[entry.dtype]).astype(np.float32).reshape(entry.shape)
