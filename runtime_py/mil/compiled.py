"""Read a compiled model (`.mlmodelc`): its program's text, and `metadata.json`, its description.

Written after compiled models that were published; Apple does not document the description.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.files import read_json
from runtime_py.mil.text import read_program
from runtime_py.mil.values import ARRAY_TYPES, DTYPES

PROGRAM, DESCRIPTION = "model.mil", "metadata.json"
_NAMES = {"fp32": "Float32", "fp16": "Float16", "fp64": "Double", "int32": "Int32", "int8": "Int8"}
_ARRAYS = {name: code for code, name in ARRAY_TYPES.items()}
_CODES = {_NAMES[name]: code for name, code in _ARRAYS.items()}
_COLOURS = {"Grayscale": 10, "RGB": 20, "BGR": 30, "Grayscale16Half": 40}


def read_compiled(folder: Path, model: Callable[[], Any]) -> Any:
    """Return a compiled model as the Model message that it was made from; `model` makes an empty one."""
    spec = model()
    path = folder / PROGRAM
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text; copy the model again") from None
    read_program(text, path, spec.mlProgram)
    told = folder / DESCRIPTION
    data = read_json(told, what="a compiled model's description", mend="copy the model again") if told.is_file() else []
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise InputError(f"{told} does not describe a model; copy the model again")
    try:
        _describe(spec, data[0] if data else {}, told)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{told} does not describe a model; copy the model again") from error
    return spec


def _describe(spec: Any, data: Mapping[str, Any], path: Path) -> None:
    """Fill in the description: what `metadata.json` tells, and without it what the program itself declares."""
    spec.specificationVersion = int(data.get("specificationVersion", 8))
    description = spec.description
    for name, key in (
        ("shortDescription", "shortDescription"),
        ("author", "author"),
        ("license", "license"),
        ("versionString", "version"),
    ):
        setattr(description.metadata, name, str(data.get(key, "")))
    description.metadata.userDefined.update({str(k): str(v) for k, v in data.get("userDefinedMetadata", {}).items()})
    function = next(iter(spec.mlProgram.functions.values()), None)
    if function is None:
        raise InputError(f"{path.parent / PROGRAM} has no function; copy the model again")
    block = function.block_specializations[function.opset]
    given = {each.name: each.type for each in function.inputs}
    if not data:
        made = {output.name: output.type for operation in block.operations for output in operation.outputs}
        for name, kind in given.items():
            _array_of(kind, (description.state if kind.HasField("stateType") else description.input).add(), name)
        for name in block.outputs:
            _array_of(made[name] if name in made else given[name], description.output.add(), name)
        return
    for group, entries in (
        (description.input, data["inputSchema"]),
        (description.output, data["outputSchema"]),
        (description.state, data.get("stateSchema", [])),
    ):
        for entry in entries:
            _feature(entry, group.add(), path)


def _array_of(kind: Any, feature: Any, name: str) -> None:
    feature.name = name
    tensor = kind.stateType.wrappedType.tensorType if kind.HasField("stateType") else kind.tensorType
    target = feature.type.stateType.arrayType if kind.HasField("stateType") else feature.type.multiArrayType
    target.dataType = _ARRAYS.get(DTYPES[tensor.dataType].name, _ARRAYS["fp32"])
    sizes = [size.constant.size if size.HasField("constant") else None for size in tensor.dimensions]
    target.shape.extend([size or 1 for size in sizes])
    if None in sizes:
        for size in sizes:
            target.shapeRange.sizeRanges.add(lowerBound=size or 1, upperBound=size or -1)


def _feature(entry: Mapping[str, Any], feature: Any, path: Path) -> None:
    feature.name, kind = entry["name"], feature.type
    kind.isOptional = entry.get("isOptional") == "1"
    what = entry["type"]
    if what in ("MultiArray", "State"):
        array = kind.multiArrayType if what == "MultiArray" else kind.stateType.arrayType
        if entry["dataType"] not in _CODES:
            raise InputError(f"{path}: {entry['name']!r} is of {entry['dataType']}, which is unknown; convert it again")
        array.dataType = _CODES[entry["dataType"]]
        array.shape.extend(json.loads(entry["shape"]))
        for low, high in json.loads(entry.get("shapeRange", "[]")):
            array.shapeRange.sizeRanges.add(lowerBound=low, upperBound=high)
        for shape in json.loads(entry.get("enumeratedShapes", "[]")):
            array.enumeratedShapes.shapes.add(shape=shape)
    elif what == "Image":
        kind.imageType.width, kind.imageType.height = int(entry["width"]), int(entry["height"])
        kind.imageType.colorSpace = _COLOURS.get(entry["colorspace"], 0)
    elif what == "Dictionary":
        number = entry.get("keyType") == "Int64"
        (kind.dictionaryType.int64KeyType if number else kind.dictionaryType.stringKeyType).SetInParent()
    elif what in ("String", "Int64"):
        (kind.stringType if what == "String" else kind.int64Type).SetInParent()
    else:
        raise InputError(f"{path}: {entry['name']!r} is of {what}, which is unknown; give the .mlpackage")
