"""Open a safetensors file from a stranger: checked header, memory-mapped tensors, float32 out. Numpy only.

The safetensors library would read the same files. This reader bounds the memory that a header can ask for, tells each
kind of damage in a sentence for a user, and converts straight from the mapped bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from lorarar.errors import InputError, describe_os_error
from lorarar.lora.safetensors_header import MAX_HEADER_BYTES, TensorEntry, parse_header
from lorarar.lora.tensors import check_factor, check_finite

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
class SafetensorsFile:
    """A file whose header is checked: its entries by name, its metadata, and the mapped bytes after the header."""

    source: str
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data: np.ndarray  # uint8, mapped read-only

    def tensor(self, name: str) -> Float32[np.ndarray, "..."]:
        """Return one tensor as a new, writable float32 array.

        Raises InputError when it is no floating-point tensor or holds NaN, infinity or a value over float32.
        """
        check_factor(self, name)
        entry = self.entries[name]
        array = _to_float32(self.data[entry.begin : entry.end], entry.dtype).reshape(entry.shape)
        check_finite(self, name, array)
        return array


def open_safetensors(path: Path) -> SafetensorsFile:
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
        entries, metadata = parse_header(header, size, source)
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
    return SafetensorsFile(source, entries, metadata, data)


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


def _to_float32(raw: np.ndarray, dtype: str) -> Float32[np.ndarray, " elements"]:
    """Convert the bytes of a floating dtype to new float32 values; F64 is rounded, and overflows to infinity."""
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32; shifting is several times faster than casting ml_dtypes' type.
        wide = raw.view("<u2").astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    with np.errstate(over="ignore"):
        return raw.view({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).astype(np.float32)
