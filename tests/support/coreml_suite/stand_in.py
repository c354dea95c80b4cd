"""What coremltools calls in the place of Core ML: our evaluator, with the interface of its own binding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil import Program
from runtime_py.mil.ops.control import State

OLD_FORMAT = "old format"
"""What is noted of a model that is no package: neural networks and trees are not evaluated."""
NEWEST = 9  # specification version: iOS 18
SYSTEM = (15, 4)  # the macOS that Apple's tests believe to run on

happened: list[tuple[str, str]] = []
"""What the evaluator was asked in the current test, and how that ended: (what, sentence or "")."""


class Refused(RuntimeError):
    """The evaluator's refusal, as coremltools expects one of Core ML."""


def _noted(what: str, call: Callable[[], Any]) -> Any:
    """Call the evaluator and note how it ended."""
    try:
        result = call()
    except InputError as error:
        happened.append((f"{what} refused", str(error)))
        raise Refused(f"Unable to compute the prediction using ML Program: {error}") from error
    except Exception as error:
        happened.append((f"{what} crashed", f"{type(error).__name__}: {error}"))
        raise
    happened.append((what, ""))
    return result


class StateProxy:
    """`libcoremlpython`'s state."""

    def __init__(self, states: dict[str, State]) -> None:
        self.states = states

    def read_state(self, name: str) -> np.ndarray:
        return self.states[name].array.astype(np.float32)

    def write_state(self, name: str, value: np.ndarray) -> None:
        self.states[name].array = value.astype(self.states[name].array.dtype)


class ModelProxy:
    """`libcoremlpython._MLModelProxy`."""

    def __init__(self, path: str, units: str, function: str, hints: dict[str, str], asset: Any) -> None:
        self.path = path
        self.function = function or None
        if Path(path).suffix == ".mlmodel":
            happened.append((OLD_FORMAT, ""))
        self.program: Program = _noted("open", lambda: Program.open(path))

    @staticmethod
    def maximum_supported_specification_version() -> int:
        return NEWEST

    @staticmethod
    def auto_set_specification_version(spec: bytes) -> bytes:
        return spec

    def predict(self, data: dict[str, Any], state: StateProxy | None = None) -> Any:
        states = None if state is None else state.states
        return _noted("predict", lambda: self.program.predict(data, states, function=self.function))

    def batchPredict(self, data: list[dict[str, Any]]) -> Any:
        return _noted("predict", lambda: self.program.predict(data, function=self.function))

    def newState(self) -> StateProxy:
        return StateProxy(self.program.make_state(self.function))

    def get_compiled_model_path(self) -> str:
        return self.path
