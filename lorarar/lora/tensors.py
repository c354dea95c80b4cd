"""Named tensors that a LoRA is read from: what they have in common, and those of a state dict. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from lorarar.errors import InputError
from lorarar.lora.safetensors_header import FLOATS, TensorInfo, shorten

MAX_ELEMENTS = 2**27  # of one tensor; rank 1024 of SDXL's widest linear has 2^23.3
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


@runtime_checkable
class TensorSource(Protocol):
    """Tensors by name, whose types and shapes are known before any is read."""

    @property
    def source(self) -> str:
        """What the tensors come from, for messages."""

    @property
    def entries(self) -> Mapping[str, TensorInfo]:
        """The dtype and shape of every tensor."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What a file says of itself."""

    def tensor(self, name: str) -> Float32[np.ndarray, "..."]:
        """Return one tensor as a new, writable float32 array; InputError when it can't be a factor of a LoRA."""


@dataclass(frozen=True)
class StateDict:
    """The tensors of a state dict in memory, numpy's or torch's."""

    source: str
    tensors: Mapping[str, Any] = field(repr=False)
    entries: Mapping[str, TensorInfo] = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Any], source: str) -> StateDict:
        """Note every tensor's type and shape. Raises InputError for a value that is no tensor."""
        for name, value in tensors.items():
            if not (hasattr(value, "dtype") and hasattr(value, "shape")):
                kind = type(value).__name__
                raise InputError(f"{source}: '{shorten(name)}' is {kind}, not a tensor; give torch tensors or arrays")
        return cls(source, tensors, {name: _info(value) for name, value in tensors.items()})

    def tensor(self, name: str) -> Float32[np.ndarray, "..."]:
        """Return one tensor as a new, writable float32 array; InputError when it can't be a factor of a LoRA."""
        check_factor(self, name)
        value = self.tensors[name]
        try:
            # torch's have no numpy form in bfloat16, or on a GPU, or while they ask for a gradient.
            value = value.detach().float().cpu().numpy() if hasattr(value, "detach") else value
        except (RuntimeError, NotImplementedError) as error:  # such as a tensor on the meta device
            raise InputError(f"{self.source}: '{shorten(name)}' can't be read ({error}); give whole tensors") from None
        with np.errstate(over="ignore"):
            array = np.array(value, np.float32)
        check_finite(self, name, array)
        return array


def _info(value: Any) -> TensorInfo:
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorInfo(_NAMES.get(dtype, dtype), tuple(map(int, value.shape)))


def check_factor(tensors: TensorSource, name: str) -> None:
    """Refuse, before it is read, a tensor that is not of floating-point numbers or is too large for a factor."""
    entry = tensors.entries[name]
    if entry.dtype not in FLOATS:
        raise InputError(
            f"{tensors.source}: '{shorten(name)}' has dtype {entry.dtype}; a LoRA's tensors must be "
            f"{', '.join(FLOATS)}, so save it in one of these"
        )
    if math.prod(entry.shape) > MAX_ELEMENTS:
        raise InputError(
            f"{tensors.source}: '{shorten(name)}' has shape {list(entry.shape)}, too large for a factor of a LoRA; "
            "this is another kind of file"
        )


def check_finite(tensors: TensorSource, name: str, array: np.ndarray) -> None:
    """Refuse a tensor that holds NaN, infinity or, in float64, a value over float32."""
    if not all_finite(array):
        raise InputError(
            f"{tensors.source}: '{shorten(name)}' holds NaN, infinity or values over float32; "
            "the training diverged or the file is damaged, use another one"
        )


def all_finite(array: np.ndarray) -> bool:
    """Tell whether no element is NaN or infinite, at the speed of one sum: only a bad sum needs the exact look."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())
