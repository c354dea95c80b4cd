"""How many multiply-adds a Core ML program does in its products and convolutions, from the sizes that it declares."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from runtime_py.mil.blob import Blob
from runtime_py.mil.graph import FunctionPlan, Step


def multiply_adds(graph: FunctionPlan) -> int:
    """Return the multiply-adds of one run of a function whose sizes are all fixed."""
    kinds = graph.inputs | {name: value.kind for name, value in graph.constants.items() if isinstance(value, Blob)}
    for step in graph.steps:
        kinds |= step.tensors
    shapes = {name: tuple(1 if size is None else size for size in kind.shape) for name, kind in kinds.items()}
    shapes |= {name: np.shape(value) for name, value in graph.constants.items() if not isinstance(value, Blob)}
    return sum(_depth(step, graph, shapes) * math.prod(shapes[next(iter(step.outputs))]) for step in graph.steps)


def _depth(step: Step, graph: FunctionPlan, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the multiply-adds of one number of the step's result."""
    if step.type == "linear":
        return shapes[step.inputs["x"][0]][-1]
    if step.type == "matmul":
        turned = "transpose_x" in step.inputs and bool(graph.constants.get(step.inputs["transpose_x"][0]))
        return shapes[step.inputs["x"][0]][-2 if turned else -1]
    if step.type == "conv":
        return math.prod(shapes[step.inputs["weight"][0]][1:])
    if step.type == "einsum":
        equation = str(graph.constants[step.inputs["equation"][0]]).replace(" ", "")
        given, _, out = equation.partition("->")
        left = dict(zip(given.split(",")[0], shapes[step.names[0]], strict=True))
        return math.prod(size for label, size in left.items() if label not in out)
    return 0
