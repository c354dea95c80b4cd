"""What a model's description says of its inputs and outputs (Model.proto, FeatureTypes.proto): all that an app sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.images import COLOURS, MODES, fits, from_image, image_type, sizes_of, span_of, span_text, to_image
from runtime_py.mil.values import ARRAY_TYPES, TensorType, Type

if TYPE_CHECKING:
    from PIL import Image

Bounds = tuple[tuple[int, int | None], ...]
"""Smallest and largest size of every axis; None is no limit."""


@dataclass(frozen=True)
class Feature:
    """An input: the type that the program declares, and what the description allows."""

    name: str
    type: TensorType
    allowed: tuple[Bounds, ...]
    default: np.ndarray | None = None  # of an input that may be left out
    colour: str | None = None  # of an image

    def check(self, given: Any) -> np.ndarray:
        """Return the value as an array of the declared kind. Raises InputError when it is none."""
        if self.colour is not None and hasattr(given, "mode"):
            given = from_image(given, self.colour, self.name)
        try:
            value = np.asarray(given)
        except ValueError:
            raise InputError(f"input {self.name!r} is ragged; give an array of {self.type}") from None
        if not (self.type.accepts(value.shape) and any(_within(value.shape, bounds) for bounds in self.allowed)):
            raise InputError(f"input {self.name!r} has shape {list(value.shape)}; give {self.type}{self._choices()}")
        if value.dtype.kind not in "biuf":
            raise InputError(f"input {self.name!r} has type {value.dtype}; give {self.type}")
        if self.type.dtype.floating:
            return value if value.dtype.kind == "f" else value.astype(np.float32)
        # As Core ML does, a float is cut off towards zero.
        whole = np.trunc(value) if value.dtype.kind == "f" else value
        with np.errstate(invalid="ignore"):
            converted = whole.astype(self.type.dtype.numpy, copy=False)
        if not np.array_equal(converted, whole):
            raise InputError(f"input {self.name!r} holds a number that does not fit in {self.type.dtype.name}")
        return converted

    def random(self, rng: np.random.Generator) -> np.ndarray:
        """Make a value to try a program with."""
        sizes = [low for low, _ in self.allowed[0]]
        if not self.type.dtype.floating:
            return np.zeros(sizes, self.type.dtype.numpy)
        if self.colour is not None:
            return rng.integers(0, 256, sizes).astype(np.float32)
        return rng.standard_normal(sizes).astype(np.float32)

    def fitted(self, image: Image.Image) -> Image.Image:
        """Return an image with this input's colours and of its first size."""
        height, width = (low for low, _ in self.allowed[0][-2:])
        return image.convert(MODES[str(self.colour)]).resize((width, height))

    def _choices(self) -> str:
        if None not in self.type.shape and not self.type.any_rank:
            return ""
        return f" with sizes of {shapes_text(self.allowed)}"


@dataclass(frozen=True)
class Described:
    """A function as the description lists it: FeatureType messages by name."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    states: frozenset[str] = frozenset()

    def features(self, types: Mapping[str, TensorType], function: str) -> dict[str, Feature]:
        """Return the inputs with both sides' types. Raises InputError where these contradict each other."""
        if self.inputs.keys() != types.keys():
            raise InputError(f"the description and the program disagree on the inputs of {function}; export it again")
        return {name: _feature(name, types[name], message) for name, message in self.inputs.items()}

    def check_outputs(self, types: Mapping[str, Type], function: str) -> None:
        """Raise InputError where the description and the program contradict each other."""
        if self.outputs.keys() != types.keys():
            raise InputError(f"the description and the program disagree on the outputs of {function}; export it again")
        for name, message in self.outputs.items():
            if message.WhichOneof("Type") != "imageType":
                continue
            kind, colour = types[name], image_type(message.imageType, name)
            if not isinstance(kind, TensorType) or not fits(kind, colour):
                raise InputError(
                    f"output {name!r} is an image of {colour}, and the program makes {kind}; export it again"
                )


def described_functions(spec: Any) -> dict[str, Described]:
    """Return the functions of a model's description, the default one first; without a list there is only `main`."""
    description = spec.description
    if not description.functions:
        return {"main": _described(description)}
    listed = {entry.name: _described(entry) for entry in description.functions}
    default = description.defaultFunctionName
    if default not in listed:
        raise InputError(f"the description's default function {default!r} is not one of its functions; export it again")
    return {default: listed.pop(default), **listed}


def allowed_shapes(array: Any) -> tuple[Bounds, ...]:
    """Return the shapes that an ArrayFeatureType message allows."""
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        return tuple(_fixed(choice.shape) for choice in array.enumeratedShapes.shapes)
    if flexible == "shapeRange":
        return (tuple(span_of(each) for each in array.shapeRange.sizeRanges),)
    return (_fixed(array.shape),)


def shapes_text(allowed: Iterable[Bounds]) -> str:
    """Return allowed shapes in words: [1, 3…8] or [2, 4]."""
    return " or ".join(f"[{', '.join(span_text(*span) for span in bounds)}]" for bounds in allowed)


def seen(value: Any, message: Any) -> Any:
    """Return an output as an app sees it by its FeatureType message: an image, a label, or an array with an axis."""
    which = message.WhichOneof("Type")
    if which == "imageType":
        return to_image(value, COLOURS[message.imageType.colorSpace])
    if which in ("stringType", "int64Type"):
        return value.item()
    if not isinstance(value, np.ndarray):
        return value
    # Core ML's arrays have an axis at least, and half precision comes as single.
    array = value.reshape(1) if value.ndim == 0 else value
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _described(entry: Any) -> Described:
    return Described(
        {given.name: given.type for given in entry.input},
        {given.name: given.type for given in entry.output},
        frozenset(state.name for state in entry.state),
    )


def _feature(name: str, kind: TensorType, message: Any) -> Feature:
    which = message.WhichOneof("Type")
    if which == "imageType":
        return _image(name, kind, message.imageType)
    if which != "multiArrayType":
        raise InputError(f"input {name!r} is of {which or 'no type'}, and the program's is {kind}; export it again")
    array = message.multiArrayType
    if ARRAY_TYPES.get(array.dataType) != kind.dtype.name:
        raise InputError(f"the description and the program disagree on the type of input {name!r}; export it again")
    if array.WhichOneof("ShapeFlexibility") is None and not kind.accepts(tuple(array.shape)):
        raise InputError(f"the description and the program disagree on the shape of input {name!r}; export it again")
    return Feature(name, kind, allowed_shapes(array), _default(array) if message.isOptional else None)


def _default(array: Any) -> np.ndarray | None:
    which = array.WhichOneof("defaultOptionalValue")
    if which is None:
        return None
    kind = np.int32 if which == "intDefaultValue" else np.float32
    # One value for all, of any shape: it takes no memory.
    return np.broadcast_to(np.asarray(getattr(array, which), kind), tuple(array.shape))


def _image(name: str, kind: TensorType, message: Any) -> Feature:
    colour = image_type(message, name)
    if not fits(kind, colour):
        raise InputError(f"input {name!r} is an image of {colour}, but the program takes {kind}; export it again")
    planes = 3 if colour in ("RGB", "BGR") else 1
    allowed = tuple(((1, 1), (planes, planes), *sizes) for sizes in sizes_of(message))
    return Feature(name, kind, allowed, colour=colour)


def _fixed(shape: Iterable[int]) -> Bounds:
    return tuple((size, size) for size in shape)


def _within(shape: tuple[int, ...], bounds: Bounds) -> bool:
    return len(shape) == len(bounds) and all(
        low <= size and (high is None or size <= high) for size, (low, high) in zip(shape, bounds, strict=True)
    )
