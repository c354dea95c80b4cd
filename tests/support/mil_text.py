"""Writes a package's program as `model.mil`, in either of the two ways that Apple's compiler was seen to write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from runtime_py.mil.package import Package
from runtime_py.mil.values import DTYPES, tensor_type, unpack

NAMES = {number: kind.name for number, kind in DTYPES.items()}


def compiled(source: Path, target: Path, short: bool, metadata: dict[str, Any] | None = None) -> Path:
    """Write a package as a compiled model. `short` types of scalars are `int32`, others `tensor<int32, []>`."""
    package = Package.open(source)
    shutil.copytree(package.folder / "weights", target / "weights") if (
        package.folder / "weights"
    ).is_dir() else target.mkdir()
    functions = [
        _function(name, each.block_specializations[each.opset], each, short)
        for name, each in package.spec.mlProgram.functions.items()
    ]
    info = '[buildInfo = dict<string, string>({{"coremlc-version", "3505.4.1"}})]'
    version = "1.3" if short else "1.0"
    (target / "model.mil").write_text(
        f"program({version})\n{info}\n{{\n" + "\n".join(functions) + "\n}\n", encoding="utf-8"
    )
    if metadata is not None:
        (target / "metadata.json").write_text(json.dumps([metadata]), encoding="utf-8")
    return target


def _function(name: str, block: Any, function: Any, short: bool) -> str:
    given = ", ".join(f"{_type(each.type, short)} {each.name}" for each in function.inputs)
    lines = [f"    func {name}<ios17>({given}) {{"]
    for operation in block.operations:
        made = ", ".join(f"{_type(output.type, short)} {output.name}" for output in operation.outputs)
        inputs = ", ".join(f"{key} = {_argument(operation.inputs[key], short)}" for key in sorted(operation.inputs))
        attributes = ", ".join(f"{key} = {_value(value, short)}" for key, value in sorted(operation.attributes.items()))
        start = f"{made} = " if made else ""
        lines.append(f"            {start}{operation.type}({inputs})[{attributes}];")
    return "\n".join([*lines, f"        }} -> ({', '.join(block.outputs)});"])


def _type(kind: Any, short: bool) -> str:
    which = kind.WhichOneof("type")
    if which == "stateType":
        return f"state<{_type(kind.stateType.wrappedType, short)}>"
    if which == "listType":
        return f"list<{_type(kind.listType.type, short)}, {kind.listType.length.constant.size}>"
    if which == "dictionaryType":
        parts = (kind.dictionaryType.keyType, kind.dictionaryType.valueType)
        return f"dict<{', '.join(_type(part, short) for part in parts)}>"
    tensor = kind.tensorType
    if short and not tensor.dimensions:
        return NAMES[tensor.dataType]
    sizes = (str(size.constant.size) if size.HasField("constant") else "?" for size in tensor.dimensions)
    return f"tensor<{NAMES[tensor.dataType]}, [{', '.join(sizes)}]>"


def _argument(argument: Any, short: bool) -> str:
    parts = [each.name if each.name else _value(each.value, short) for each in argument.arguments]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _value(value: Any, short: bool) -> str:
    kind = _type(value.type, short)
    if value.HasField("blobFileValue"):
        string, whole = ("string", "uint64") if short else ("tensor<string, []>", "tensor<uint64, []>")
        path, offset = json.dumps(value.blobFileValue.fileName), value.blobFileValue.offset
        return f"{kind}(BLOBFILE(path = {string}({path}), offset = {whole}({offset})))"
    if value.immediateValue.HasField("list"):
        items = (_literal(each.immediateValue.tensor, each.type) for each in value.immediateValue.list.values)
        return f"{kind}([{', '.join(items)}])"
    return f"{kind}({_literal(value.immediateValue.tensor, value.type)})"


def _literal(tensor: Any, declared: Any) -> str:
    kind = tensor_type(declared, "a value")
    stored = getattr(tensor, kind.dtype.field).values
    if kind.dtype.field == "bytes":
        numbers = unpack(np.frombuffer(stored, np.uint8), kind)
    else:
        numbers = np.array(list(stored), object).reshape(
            [size or 0 for size in kind.shape] if kind.shape else [len(stored)]
        )
        numbers = numbers if kind.shape else numbers.reshape(-1)[0]
    return _nested(numbers if kind.shape else np.asarray(numbers).reshape(-1)[0])


def _nested(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"[{', '.join(_nested(each) for each in value)}]"
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float | np.floating):
        return float(value).hex() if np.isfinite(value) else str(float(value))
    return str(int(value))
