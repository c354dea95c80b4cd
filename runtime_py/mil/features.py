"""What a model's description says of its inputs and outputs (Model.proto, FeatureTypes.proto): all that an app sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.values import TensorType

# ArrayFeatureType.ArrayDataType → the name of the program's type.
_ARRAY_TYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 131080: "int8", 65552: "fp16"}

Bounds = tuple[tuple[int, int | None], ...]
"""Smallest and largest size of every axis; None is no limit."""


@dataclass(frozen=True)
class Feature:
    """An input: the type that the program declares and the shapes that the description allows."""

    name: str
    type: TensorType
    allowed: tuple[Bounds, ...]

    def check(self, given: Any) -> np.ndarray:
        """Return the value as an array of the declared kind. Raises InputError when it is none."""
        try:
            value = np.asarray(given)
        except ValueError:
            raise InputError(f"input {self.name!r} is ragged; give an array of {self.type}") from None
        if not (self.type.accepts(value.shape) and any(_within(value.shape, bounds) for bounds in self.allowed)):
            raise InputError(f"input {self.name!r} has shape {list(value.shape)}; give {self.type}{self._choices()}")
        wanted = "f" if self.type.dtype.floating else "biu"
        if value.dtype.kind not in wanted:
            raise InputError(f"input {self.name!r} has type {value.dtype}; give {self.type}")
        converted = value.astype(self.type.dtype.numpy, copy=False) if wanted != "f" else value
        if wanted != "f" and not np.array_equal(converted, value):
            raise InputError(f"input {self.name!r} holds a number that does not fit in {self.type.dtype.name}")
        return converted

    def _choices(self) -> str:
        if None not in self.type.shape:
            return ""
        return " with sizes of " + " or ".join(
            "[" + ", ".join(f"{low}" if low == high else f"{low}…{high or ''}" for low, high in bounds) + "]"
            for bounds in self.allowed
        )


@dataclass(frozen=True)
class Described:
    """A function as the description lists it: ArrayFeatureType messages by input, and the outputs' names."""

    inputs: dict[str, Any]
    outputs: frozenset[str]

    def features(self, types: dict[str, TensorType], function: str) -> dict[str, Feature]:
        """Return the inputs with both sides' types. Raises InputError where these contradict each other."""
        if self.inputs.keys() != types.keys():
            raise InputError(f"the description and the program disagree on the inputs of {function}; export it again")
        return {name: _feature(name, types[name], array) for name, array in self.inputs.items()}


def described_functions(spec: Any) -> dict[str, Described]:
    """Return the functions of a model's description, the default one first; without a list there is only `main`."""
    description = spec.description
    if not description.functions:
        return {"main": _described(description.input, description.output)}
    listed = {entry.name: _described(entry.input, entry.output) for entry in description.functions}
    default = description.defaultFunctionName
    if default not in listed:
        raise InputError(f"the description's default function {default!r} is not one of its functions; export it again")
    return {default: listed.pop(default), **listed}


def _described(inputs: Iterable[Any], outputs: Iterable[Any]) -> Described:
    arrays = {}
    for given in inputs:
        kind = given.type.WhichOneof("Type")
        if kind != "multiArrayType":
            raise InputError(
                f"input {given.name!r} is of {kind or 'no type'}; only tensors are evaluated, convert with them"
            )
        arrays[given.name] = given.type.multiArrayType
    return Described(arrays, frozenset(output.name for output in outputs))


def _feature(name: str, kind: TensorType, array: Any) -> Feature:
    if _ARRAY_TYPES.get(array.dataType) != kind.dtype.name:
        raise InputError(f"the description and the program disagree on the type of input {name!r}; export it again")
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        allowed = tuple(_fixed(choice.shape) for choice in array.enumeratedShapes.shapes)
    elif flexible == "shapeRange":
        sizes = array.shapeRange.sizeRanges
        # An upper bound of -1 is none.
        allowed = (tuple((each.lowerBound, None if each.upperBound < 0 else each.upperBound) for each in sizes),)
    else:
        allowed = (_fixed(array.shape),)
        if not kind.accepts(tuple(array.shape)):
            raise InputError(
                f"the description and the program disagree on the shape of input {name!r}; export it again"
            )
    return Feature(name, kind, allowed)


def _fixed(shape: Iterable[int]) -> Bounds:
    return tuple((size, size) for size in shape)


def _within(shape: tuple[int, ...], bounds: Bounds) -> bool:
    return len(shape) == len(bounds) and all(
        low <= size and (high is None or size <= high) for size, (low, high) in zip(shape, bounds, strict=True)
    )
