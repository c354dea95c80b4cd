"""How many multiply-adds a Core ML program does in its products and convolutions, from the sizes that it declares."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from runtime_py.mil.blob import Blob
from runtime_py.mil.graph import Constant, FunctionPlan, Step

Shapes = Mapping[str, tuple[int, ...]]


def multiply_adds(graph: FunctionPlan) -> int:
    """Return the multiply-adds of one run of a function whose sizes are all fixed."""
    shapes: dict[str, tuple[int, ...]] = {name: _fixed(kind.shape) for name, kind in graph.inputs.items()}
    shapes |= {name: _shape(value) for name, value in graph.constants.items()}
    for step in graph.steps:
        shapes |= {name: _fixed(kind.shape) for name, kind in step.outputs.items()}
    return sum(_depth(step, graph, shapes) * math.prod(shapes[next(iter(step.outputs))]) for step in graph.steps)


def _depth(step: Step, graph: FunctionPlan, shapes: Shapes) -> int:
    """Return the multiply-adds of one number of the step's result."""
    if step.type == "linear":
        return shapes[_name(step, "x")][-1]
    if step.type == "matmul":
        turned = "transpose_x" in step.inputs and bool(graph.constants.get(_name(step, "transpose_x")))
        return shapes[_name(step, "x")][-2 if turned else -1]
    if step.type == "conv":
        return math.prod(shapes[_name(step, "weight")][1:])
    if step.type == "einsum":
        equation = str(graph.constants[_name(step, "equation")]).replace(" ", "")
        given, _, out = equation.partition("->")
        left = dict(zip(given.split(",")[0], shapes[step.names[0]], strict=True))
        return math.prod(size for label, size in left.items() if label not in out)
    return 0


def _name(step: Step, parameter: str) -> str:
    operand = step.inputs[parameter]
    assert isinstance(operand, str)
    return operand


def _fixed(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in shape)


def _shape(value: Constant) -> tuple[int, ...]:
    if isinstance(value, Blob):
        return _fixed(value.kind.shape)
    return tuple(value.shape) if isinstance(value, np.ndarray) else ()
