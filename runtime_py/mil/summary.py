"""Tell what any Core ML model holds: its inputs and outputs, operations, stored bytes, whether it can be evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from runtime_py.mil.features import allowed_shapes, shapes_text
from runtime_py.mil.graph import operations
from runtime_py.mil.images import COLOURS, sizes_of, span_text
from runtime_py.mil.ops import OPS
from runtime_py.mil.package import Package
from runtime_py.mil.values import ARRAY_TYPES, TensorType, tensor_type

_DETAILS = ("shortDescription", "author", "license", "versionString")  # of Model.proto's Metadata


@dataclass(frozen=True)
class Part:
    """One function of a program, or one model of another kind."""

    name: str
    features: list[tuple[str, str, str]]  # (input, output or state; name; type)
    operations: Counter[str]  # a program's operations, or a network's layers

    @property
    def unknown(self) -> list[str]:
        """Operations that the evaluator does not know."""
        return sorted(kind for kind in self.operations if kind != "const" and kind not in OPS)


@dataclass(frozen=True)
class Summary:
    """What a model holds."""

    path: Path
    kind: str  # Model.proto's Type
    version: int  # of the specification
    details: dict[str, str]
    parts: list[Part]
    stored: Counter[str]  # bytes of a program's constants by type; those in the program itself are `immediate`


def summarise(path: Path) -> Summary:
    """Read any Core ML model. Raises InputError only for what is none."""
    package = Package.read(path)
    spec = package.spec
    told = {name: getattr(spec.description.metadata, name) for name in _DETAILS}
    told |= dict(spec.description.metadata.userDefined)
    kind = spec.WhichOneof("Type") or "model without a type"
    parts, stored = [], Counter[str]()
    for number, part in enumerate(package.parts, 1):
        label = f"model {number}" if kind == "pipeline" else ""
        found = list(_parts(part, label))
        parts += found
        stored += _stored(part)
    if kind == "pipeline":
        parts.insert(0, Part("pipeline", _features(spec.description), Counter()))
    return Summary(path, kind, spec.specificationVersion, {k: v for k, v in told.items() if v}, parts, stored)


def feature_text(feature: Any) -> str:
    """Return a FeatureType message in words."""
    which = feature.WhichOneof("Type")
    if which == "imageType":
        sizes = " or ".join(
            f"{span_text(*width)}×{span_text(*height)}" for height, width in sizes_of(feature.imageType)
        )
        return f"image {COLOURS.get(feature.imageType.colorSpace, '?')} {sizes}"
    if which in ("multiArrayType", "stateType"):
        array = feature.multiArrayType if which == "multiArrayType" else feature.stateType.arrayType
        return f"{ARRAY_TYPES.get(array.dataType, '?')} {shapes_text(allowed_shapes(array))}" + (
            ", may be left out" if feature.isOptional else ""
        )
    if which == "dictionaryType":
        return "probabilities by " + (
            "number" if feature.dictionaryType.WhichOneof("KeyType") == "int64KeyType" else "name"
        )
    return {"stringType": "string", "int64Type": "whole number", "doubleType": "number"}.get(which, which or "no type")


def _parts(spec: Any, label: str) -> Iterator[Part]:
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        layers = getattr(getattr(spec, kind or "", None), "layers", [])
        counts = Counter(layer.WhichOneof("layer") or "custom" for layer in layers)
        yield Part(label or kind or "model", _features(spec.description), counts)
        return
    described = {entry.name: entry for entry in spec.description.functions} or {"main": spec.description}
    for name, function in spec.mlProgram.functions.items():
        block = function.block_specializations.get(function.opset)
        counts = Counter(operation.type for operation in operations(block)) if block is not None else Counter()
        features = _features(described[name]) if name in described else []
        yield Part(f"{label} {name}".strip(), features, counts)


def _features(entry: Any) -> list[tuple[str, str, str]]:
    groups = (("input", entry.input), ("output", entry.output), ("state", entry.state))
    return [(role, each.name, feature_text(each.type)) for role, group in groups for each in group]


def _stored(spec: Any) -> Counter[str]:
    """Count the bytes of a program's constants; a blob that several functions share counts once."""
    blobs: dict[tuple[str, int], TensorType] = {}
    sizes: Counter[str] = Counter()
    for value in _constants(spec):
        stored = value.WhichOneof("value")
        try:
            kind = tensor_type(value.type, "a constant")
            if stored == "blobFileValue":
                blobs[value.blobFileValue.fileName, value.blobFileValue.offset] = kind
            elif stored == "immediateValue" and kind.dtype.bits:
                sizes["immediate"] += kind.nbytes
        except InputError:  # a list of labels, or a type that is not known here
            continue
    for kind in blobs.values():
        sizes[kind.dtype.name] += kind.nbytes
    return sizes


def _constants(spec: Any) -> Iterator[Any]:
    if spec.WhichOneof("Type") != "mlProgram":
        return
    for function in spec.mlProgram.functions.values():
        block = function.block_specializations.get(function.opset)
        for operation in operations(block) if block is not None else ():
            yield from (value for name, value in operation.attributes.items() if name != "name")
            for argument in operation.inputs.values():
                yield from (each.value for each in argument.arguments if each.WhichOneof("binding") == "value")
