"""Types and immediate values of a Core ML program as numpy ones (MIL.proto: TensorType, Value, TensorValue)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorarar.errors import InputError

Value = np.ndarray | str
"""What a constant of the program holds; only parameters and a classifier's classes are strings."""


@dataclass(frozen=True)
class DType:
    """One of MIL.proto's data types: its numpy type, its bits in storage, and the field of immediate values."""

    name: str
    numpy: np.dtype[Any]
    bits: int
    field: str  # the member of TensorValue that holds immediate values
    blob: int | None = None  # its number in weight.bin (MIL's BlobDataType), None when blobs can't hold it

    @property
    def floating(self) -> bool:
        return self.numpy.kind == "f"


def _dtype(name: str, numpy: Any, bits: int, field: str, blob: int | None = None) -> DType:
    return DType(name, np.dtype(numpy), bits, field, blob)


# MIL.proto's DataType → type. Types below eight bits are packed in storage and bytes in memory.
DTYPES: dict[int, DType] = {
    1: _dtype("bool", np.bool_, 8, "bools"),
    2: _dtype("string", np.str_, 0, "strings"),
    10: _dtype("fp16", np.float16, 16, "bytes", 1),
    11: _dtype("fp32", np.float32, 32, "floats", 2),
    12: _dtype("fp64", np.float64, 64, "doubles"),
    21: _dtype("int8", np.int8, 8, "bytes", 4),
    22: _dtype("int16", np.int16, 16, "ints", 6),
    23: _dtype("int32", np.int32, 32, "ints", 14),
    24: _dtype("int64", np.int64, 64, "longInts"),
    25: _dtype("int4", np.int8, 4, "bytes", 8),
    31: _dtype("uint8", np.uint8, 8, "bytes", 3),
    32: _dtype("uint16", np.uint16, 16, "ints", 7),
    33: _dtype("uint32", np.uint32, 32, "bytes", 15),
    34: _dtype("uint64", np.uint64, 64, "longInts"),
    35: _dtype("uint4", np.uint8, 4, "bytes", 11),
    36: _dtype("uint2", np.uint8, 2, "bytes", 10),
    37: _dtype("uint1", np.uint8, 1, "bytes", 9),
    38: _dtype("uint6", np.uint8, 6, "bytes", 13),
    39: _dtype("uint3", np.uint8, 3, "bytes", 12),
}


ARRAY_TYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 131080: "int8", 65552: "fp16"}
"""FeatureTypes.proto's ArrayDataType → the name of the program's type."""


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; None is a dimension that only the inputs decide."""

    dtype: DType
    shape: tuple[int | None, ...]
    any_rank: bool = False  # even the number of axes is decided by the inputs; `shape` is empty then

    def __str__(self) -> str:
        if self.any_rank:
            return f"{self.dtype.name} of any rank"
        return f"{self.dtype.name} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Tell whether an array of this shape is one of this type."""
        return self.any_rank or (
            len(shape) == len(self.shape)
            and all(want in (None, have) for want, have in zip(self.shape, shape, strict=True))
        )

    @property
    def count(self) -> int:
        """Number of elements of a constant's type, which has no open dimension."""
        if None in self.shape or self.any_rank:
            raise InputError("a constant of the program has an open dimension; the package is damaged, export it again")
        return math.prod(size for size in self.shape if size is not None)

    @property
    def nbytes(self) -> int:
        """Bytes in storage, packed."""
        return (self.count * self.dtype.bits + 7) // 8


@dataclass(frozen=True)
class ListType:
    """A list of tensors of one type."""

    element: TensorType

    def __str__(self) -> str:
        return f"list of {self.element}"


@dataclass(frozen=True)
class DictType:
    """A classifier's probabilities by class."""

    key: DType

    def __str__(self) -> str:
        return f"probabilities by {self.key.name}"


@dataclass(frozen=True)
class StateType:
    """A tensor that stays from one run to the next."""

    tensor: TensorType

    def __str__(self) -> str:
        return f"state of {self.tensor}"


Type = TensorType | ListType | DictType | StateType
"""What a name of a program is declared as."""


def is_half(kind: Type) -> bool:
    """Tell whether a tensor of half-precision numbers is declared."""
    return isinstance(kind, TensorType) and kind.dtype.numpy == np.float16


def value_type(proto: Any, what: str) -> Type:
    """Return the type that a ValueType message declares; `what` names its owner in messages."""
    kind = proto.WhichOneof("type")
    if kind == "listType":
        return ListType(tensor_type(proto.listType.type, f"an element of {what}"))
    if kind == "stateType":
        return StateType(tensor_type(proto.stateType.wrappedType, what))
    if kind == "dictionaryType":
        return DictType(tensor_type(proto.dictionaryType.keyType, f"a key of {what}").dtype)
    return tensor_type(proto, what)


def tensor_type(proto: Any, what: str) -> TensorType:
    """Return the tensor's type that a ValueType message declares."""
    kind = proto.WhichOneof("type")
    if kind != "tensorType":
        raise InputError(f"{what} is a {kind or 'value without a type'}, where only a tensor can be; export it again")
    tensor = proto.tensorType
    dtype = DTYPES.get(tensor.dataType)
    if dtype is None:
        raise InputError(
            f"{what} has data type {tensor.dataType}, which this evaluator does not know; export with fp16"
        )
    if any(size.WhichOneof("dimension") == "unknown" and size.unknown.variadic for size in tensor.dimensions):
        return TensorType(dtype, (), any_rank=True)
    if tensor.rank != len(tensor.dimensions):
        raise InputError(f"{what} declares rank {tensor.rank} but {len(tensor.dimensions)} sizes; export it again")
    sizes = (size.constant.size if size.WhichOneof("dimension") == "constant" else None for size in tensor.dimensions)
    return TensorType(dtype, tuple(sizes))


def immediate(tensor: Any, kind: TensorType, what: str) -> Value:
    """Return a TensorValue message as an array of the declared type, or as a string."""
    if tensor.WhichOneof("value") != kind.dtype.field:
        raise InputError(f"{what} is declared {kind} but stored as {tensor.WhichOneof('value')}; export it again")
    stored = getattr(tensor, kind.dtype.field).values
    expected = kind.nbytes if kind.dtype.field == "bytes" else kind.count
    if len(stored) != expected:
        raise InputError(f"{what} is declared {kind} but holds {len(stored)} of {expected} values; export it again")
    if kind.dtype.field == "strings":
        return str(stored[0]) if not kind.shape and stored else np.array(list(stored), np.str_)
    if kind.dtype.field == "bytes":
        return unpack(np.frombuffer(stored, np.uint8), kind)
    try:
        return np.array(list(stored), kind.dtype.numpy).reshape([size or 0 for size in kind.shape])
    except OverflowError:
        raise InputError(f"{what} holds a number that does not fit in {kind.dtype.name}; export it again") from None


# Values unpacked in one go: bounds the eightfold growth of unpackbits, and is a multiple of eight, so every chunk
# starts on a byte whatever its width.
_CHUNK = 1 << 20


def unpack(raw: np.ndarray, kind: TensorType) -> np.ndarray:
    """Return stored bytes as an array of their type; narrow types are packed from each byte's lowest bit on."""
    shape = [size or 0 for size in kind.shape]
    if kind.dtype.bits >= 8:
        return raw.view(kind.dtype.numpy).reshape(shape)
    values = unpack_bits(raw, kind.dtype.bits, kind.count)
    if kind.dtype.numpy.kind == "i":
        sign = 1 << (kind.dtype.bits - 1)
        values = ((values ^ sign).astype(np.int8) - sign).astype(np.int8)
    return values.reshape(shape)


def unpack_bits(raw: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack `count` unsigned integers of `bits` bits each, packed from the lowest bit on (MIL's sub-byte storage)."""
    values = np.empty(count, np.uint8)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        piece = np.unpackbits(raw[start * bits // 8 : (stop * bits + 7) // 8], bitorder="little")
        rows = piece[: (stop - start) * bits].reshape(-1, bits)
        values[start:stop] = np.packbits(rows, axis=1, bitorder="little")[:, 0]
    return values
