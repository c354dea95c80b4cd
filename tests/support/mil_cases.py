"""What the tests of runtime_py.mil's operations are made of: a program of one operation, and torch's word for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mil_builder import close, mb, save, spread

from runtime_py.mil import Program


@dataclass(frozen=True)
class Case:
    """One program of one operation: how it is built, what it is fed, and what torch makes of the same."""

    op: str
    build: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: dict[str, np.ndarray] = field(default_factory=lambda: {"x": spread(2, 3, 4)})
    ios: int = 17
    note: str = ""


X = {"x": spread(2, 3, 4)}
POSITIVE = {"x": np.abs(spread(2, 3, 4)) + np.float32(0.1)}
UNIT = {"x": np.tanh(spread(2, 3, 4))}
XY = {"x": spread(2, 3, 4), "y": spread(1, 3, 1, seed=1)}
INTS = {"x": np.arange(-6, 6, dtype=np.int32).reshape(3, 4), "y": np.array([[3], [-2], [5]], np.int32)}
IMAGE = {"x": spread(2, 6, 7, 9)}


def unary(op: str, reference: Callable[..., Any], inputs: dict[str, np.ndarray] = X, **more: Any) -> Case:
    ios = more.pop("ios", 17)
    note = more.pop("note", "")
    return Case(op, lambda x: getattr(mb, op)(x=x, **more), reference, inputs, ios, note)


def binary(op: str, reference: Callable[..., Any], inputs: dict[str, np.ndarray] = XY) -> Case:
    return Case(op, lambda x, y: getattr(mb, op)(x=x, y=y), reference, inputs)


def compare(op: str, reference: Callable[..., Any]) -> Case:
    inputs = {"x": np.array([[1, 2, 3]], np.float32), "y": np.array([[3], [2]], np.float32)}
    return Case(op, lambda x, y: mb.cast(x=getattr(mb, op)(x=x, y=y), dtype="int32"), reference, inputs)


def logical(op: str, reference: Callable[..., Any]) -> Case:
    def build(x: Any, y: Any) -> Any:
        given = [mb.greater(x=value, y=np.float32(0)) for value in (x, y)]
        return mb.cast(x=getattr(mb, op)(x=given[0], y=given[1]), dtype="int32")

    return Case(op, build, lambda x, y: reference(x > 0, y > 0).int(), XY)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def case_id(case: Case) -> str:
    return f"{case.op} {case.note}".strip().replace(" ", "-")


def check(case: Case, folder: Path) -> None:
    """Run a case's program, and compare each output with torch's."""
    program = Program.open(save(folder / "p.mlpackage", case.build, case.inputs, case.ios))
    assert case.op in program.op_counts()
    expected = case.reference(*(torch.tensor(value) for value in case.inputs.values()))
    wanted = expected if isinstance(expected, tuple) else (expected,)
    outputs = program.run(case.inputs, mode="fp32")
    assert len(outputs) == len(wanted)
    for (name, actual), want in zip(outputs.items(), wanted, strict=True):
        assert actual.dtype == program.outputs[name].dtype.numpy
        close(actual, want.numpy())
