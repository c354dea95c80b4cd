"""Count what a component does: operations of its products and convolutions, and the bytes that it must read once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.bundle import ONNX_MODEL, Bundle, Component
from runtime_py.mil import Program


@dataclass(frozen=True)
class ComponentWork:
    """What one run on inputs of the golden inputs' sizes takes."""

    operations: int  # two for each multiply-add; norms, activations and copies are not counted
    read_bytes: int  # the artifact and the inputs, each read once; activations are not counted


Sizes = Mapping[str, Sequence[int]]


def count_work(bundle: Bundle, name: str) -> ComponentWork:
    """Count the work of a component. Raises InputError for an artifact whose operations can't be seen."""
    component = bundle.component(name)
    counters = {"onnx": _onnx_multiply_adds, "coreml": _coreml_multiply_adds}
    target = bundle.manifest["target"]
    if target not in counters:
        raise InputError(
            f"{component.path}: an ExecuTorch program keeps its operations in a form of XNNPACK's own; estimate with "
            "the onnx or coreml bundle of the same base"
        )
    given = {spec.name: tuple(component.golden_inputs[spec.name]["shape"]) for spec in component.inputs}
    inputs = sum(math.prod(given[spec.name]) * np.dtype(spec.dtype).itemsize for spec in component.inputs)
    size = int(component.entry["bytes"])
    return ComponentWork(2 * counters[target](component, given), size + inputs)


def _onnx_multiply_adds(component: Component, given: Sizes) -> int:
    """Count by the sizes that the exporter left in the graph; a rank left open is that of the golden inputs."""
    import onnx

    path = component.path / ONNX_MODEL if component.path.is_dir() else component.path
    graph = onnx.load(path, load_external_data=False).graph
    named: dict[str, int] = {}
    for value in graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, given.get(value.name, ()), strict=False):
            if dim.dim_param:
                named[dim.dim_param] = size
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {value.name: [_dim(dim, named) for dim in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {value.name: list(value.dims) for value in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type not in _ONNX_DEPTH:
            continue
        out = shapes.get(node.output[0])
        if out is None:
            raise InputError(f"{path}: the size of {node.output[0]} is not stored; export the bundle again")
        total += math.prod(out) * _ONNX_DEPTH[node.op_type](node, shapes)
    return total


def _dim(dim: Any, named: Mapping[str, int]) -> int:
    """Return a size of a graph; of one that is a sum of names (two ranks) each part is looked up."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return sum(named.get(part.strip(), 0) for part in dim.dim_param.split("+")) or 1


def _conv_depth(node: Any, shapes: Sizes) -> int:
    return math.prod(shapes[node.input[1]][1:])


def _gemm_depth(node: Any, shapes: Sizes) -> int:
    transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
    return shapes[node.input[0]][0 if transposed else -1]


def _last_depth(node: Any, shapes: Sizes) -> int:
    return shapes[node.input[0]][-1]


# The multiply-adds that one number of the output takes, by the kind of node.
_ONNX_DEPTH = {
    "MatMul": _last_depth,
    "MatMulInteger": _last_depth,
    "MatMulNBits": _last_depth,
    "DynamicQuantizeMatMul": _last_depth,
    "Gemm": _gemm_depth,
    "Conv": _conv_depth,
    "ConvInteger": _conv_depth,
}


def _coreml_multiply_adds(component: Component, _: Sizes) -> int:
    return Program.open(component.path).multiply_adds()
