"""Named tensors that a LoRA is read from, whatever holds them: a file or a state dict. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32

from lorarar.errors import InputError, said_by
from lorarar.lora.codes import Codes, Factor, as_float32

FLOATS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")
"""The element types, in safetensors' words, that a LoRA may have."""
INTEGERS = ("I64", "I32", "I16", "I8", "U8")
"""The whole numbers that an alpha may be as well: sd-scripts, AutoTrain and diffusers' converter write them."""
MAX_ELEMENTS = 2**27  # of one tensor; rank 1024 of SDXL's widest linear has 2^23.3
_NAMES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """The element type of a tensor, in safetensors' words, and its shape, which are known before it is read."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tensors:
    """Tensors by name, whose types and shapes are known before any is read."""

    source: str  # what they come from, for messages
    entries: Mapping[str, TensorInfo] = field(repr=False)
    read: Callable[[str], Factor] = field(repr=False)  # as stored, or a new, writable float32 array
    metadata: Mapping[str, str] = field(default_factory=dict)  # what a file says of itself

    def tensor(self, name: str, allowed: Collection[str] = FLOATS) -> Float32[np.ndarray, "..."]:
        """Return one tensor as a new, writable float32 array. Raises InputError as `factor`."""
        return as_float32(self.factor(name, allowed))

    def factor(self, name: str, allowed: Collection[str] = FLOATS) -> Factor:
        """Return one tensor as it is stored in 8 or 16 bits, else as a new, writable float32 array.

        Raises InputError, before it is read, when its type is not allowed or it is too large for a factor of a LoRA,
        and when it holds NaN, infinity or, in float64, a value over float32.
        """
        entry, where = self.entries[name], f"{self.source}: '{shorten(name)}'"
        if entry.dtype not in allowed:
            raise InputError(
                f"{where} has dtype {entry.dtype}; a LoRA's tensors must be {', '.join(allowed)}, "
                "so save it in one of these"
            )
        if math.prod(entry.shape) > MAX_ELEMENTS:
            raise InputError(
                f"{where} has shape {list(entry.shape)}, too large for a factor of a LoRA; this is another kind of file"
            )
        found = self.read(name)
        if not (math.isfinite(found.peak()) if isinstance(found, Codes) else all_finite(found)):
            raise InputError(
                f"{where} holds NaN, infinity or values over float32; "
                "the training diverged or the file is damaged, use another one"
            )
        return found


def state_dict_tensors(tensors: Mapping[str, Any], source: str) -> Tensors:
    """Note the type and shape of every tensor of a state dict, numpy's or torch's.

    Raises InputError for a name that is no text and a value that is no tensor.
    """
    entries = {}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise InputError(f"{source}: its key {name!r:.60} is no text; give the tensors by their names")
        if not (hasattr(value, "dtype") and hasattr(value, "shape")):
            kind = type(value).__name__
            raise InputError(f"{source}: '{shorten(name)}' is {kind}, not a tensor; give torch tensors or arrays")
        dtype = str(value.dtype).removeprefix("torch.")
        entries[name] = TensorInfo(_NAMES.get(dtype, dtype), tuple(map(int, value.shape)))

    def read(name: str) -> np.ndarray:
        value = tensors[name]
        try:
            # torch's have no numpy form in bfloat16, or on a GPU, or while they ask for a gradient.
            value = value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
        except (RuntimeError, NotImplementedError, TypeError) as error:  # on the meta device, or sparse
            raise InputError(
                f"{source}: '{shorten(name)}' can't be read ({said_by(error)}); give whole tensors"
            ) from None
        with np.errstate(over="ignore"):
            return np.array(value, np.float32)

    return Tensors(source, entries, read)


def all_finite(array: np.ndarray) -> bool:
    """Tell whether no element is NaN or infinite, at the speed of one sum: only a bad sum needs the exact look."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def shorten(text: str, limit: int = 120) -> str:
    """Make a name from a stranger's file safe to print: no control characters, at most `limit` characters."""
    if text.isprintable() and len(text) <= limit:
        return text
    clean = "".join(character if character.isprintable() else "?" for character in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
