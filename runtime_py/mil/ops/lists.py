"""Lists of tensors, and a classifier's result (MIL's control_flow lists, classify)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Flag = np.ndarray | bool


@dataclass(frozen=True)
class TensorList:
    """A list's value. Every change makes a new one."""

    elements: tuple[Array | None, ...]  # None where nothing was written yet
    blank: Array | None = None  # what is read there, where the program tells the elements' shape


LONGEST = 1 << 24  # elements
_TYPES = {"bool": np.bool_, "fp16": np.float16, "fp32": np.float32, "int32": np.int32}


def make_list(
    elem_shape: list[Array],
    init_length: Array | int = 1,
    dynamic_length: Flag = True,
    dtype: str = "fp32",
) -> TensorList:
    """Return a list of a length, with nothing in it."""
    known = all(np.asarray(size).dtype.kind in "iu" for size in elem_shape)
    blank: Array | None = np.zeros([int(n) for n in elem_shape], _TYPES.get(dtype, np.float32)) if known else None
    _check_length(int(init_length))
    return TensorList((None,) * int(init_length), blank)


def list_length(ls: TensorList) -> Array:
    """Return how many elements a list has."""
    return np.array(len(ls.elements), np.int32)


def list_write(ls: TensorList, index: Array, value: Array) -> TensorList:
    """Put a value at an index; a list that is too short grows."""
    return _written(ls, [int(index)], [value])


def list_scatter(ls: TensorList, indices: Array, value: Array) -> TensorList:
    """Put the slices of a tensor at indices."""
    return _written(ls, indices.tolist(), list(value))


def list_read(ls: TensorList, index: Array) -> Array:
    """Return the element at an index."""
    return _read(ls, int(index))


def list_gather(ls: TensorList, indices: Array) -> Array:
    """Return the elements at indices as one tensor."""
    return np.stack([_read(ls, index) for index in indices.tolist()])


def classify(probabilities: Array, classes: Array) -> tuple[Array, dict[str | int, float]]:
    """Return the likeliest class, and the probability of each."""
    flat = probabilities.reshape(-1)
    if len(flat) != len(classes):
        raise ValueError(f"it has {len(flat)} probabilities of {len(classes)} classes")
    return np.asarray(classes[flat.argmax()]), dict(zip(classes.tolist(), flat.tolist(), strict=True))


def _written(ls: TensorList, indices: list[int], values: list[Array]) -> TensorList:
    if min(indices, default=0) < 0:
        raise ValueError(f"its index {min(indices)} is below 0")
    _check_length(max(indices, default=0) + 1)
    grown = [*ls.elements, *[None] * (max(indices, default=0) + 1 - len(ls.elements))]
    for index, value in zip(indices, values, strict=True):
        grown[index] = value
    return TensorList(tuple(grown), ls.blank)


def _check_length(length: int) -> None:
    if length > LONGEST:
        raise ValueError(f"its list of {length} elements is longer than {LONGEST}")


def _read(ls: TensorList, index: int) -> Array:
    if not 0 <= index < len(ls.elements):
        raise ValueError(f"its index {index} is outside a list of {len(ls.elements)}")
    value = ls.blank if ls.elements[index] is None else ls.elements[index]
    if value is None:
        raise ValueError(f"its list holds nothing at {index}")
    return value
