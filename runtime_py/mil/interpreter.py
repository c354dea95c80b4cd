"""Run the steps of a plan: operands widened, results checked against their declared types and rounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorarar.errors import InputError, said_by
from runtime_py.mil.blob import Blob
from runtime_py.mil.graph import Block, Step
from runtime_py.mil.half import from_half, nearest_half
from runtime_py.mil.ops import BLOCKS
from runtime_py.mil.room import check_room
from runtime_py.mil.values import TensorType, Type, is_half

MODES = ("fp16", "fp32")
"""fp16: each operation computes in float32 and its result is rounded to the type that the program declares.
fp32: no float is rounded to fp16, except where the weights are stored so."""

Progress = Callable[[int, int], None]
"""Called with the steps done and their number."""


@dataclass(frozen=True)
class OpTrace:
    """What one float result of a run looked like."""

    type: str
    output: str
    dtype: str  # numpy's name
    position: int
    low: float  # smallest finite value; 0 without any
    high: float  # largest one
    infinities: int
    nans: int
    seconds: float = 0.0  # of the operation, with all that its blocks did

    @property
    def largest(self) -> float:
        """The largest finite |value|."""
        return max(abs(self.low), abs(self.high))


class Interpreter:
    """One run: the values by name, and what is done with each step's results."""

    def __init__(self, values: dict[str, Any], half: bool, trace: list[OpTrace] | None = None) -> None:
        self.values, self.half, self.trace = values, half, trace

    def run(self, steps: Sequence[Step], progress: Progress | None = None) -> None:
        """Run steps in order."""
        for done, step in enumerate(steps, 1):
            start = time.perf_counter()
            results = self._execute(step)
            self.values.update(results)
            if self.trace is not None:
                self.trace.extend(_traced(step, results, self.half, time.perf_counter() - start))
            for forgotten in step.frees:
                del self.values[forgotten]
            if progress is not None:
                progress(done, len(steps))

    def _execute(self, step: Step) -> dict[str, Any]:
        """Run a step and return its results by name."""
        try:
            results = self._results(step)
        except InputError:
            raise
        except (ValueError, IndexError, TypeError, ArithmeticError, AttributeError, KeyError, MemoryError) as error:
            raise InputError(
                f"{step} cannot be computed: {said_by(error)}; give other inputs, or export it again"
            ) from error
        made = list(results) if isinstance(results, tuple) else [results]
        if len(made) != len(step.outputs):
            raise InputError(f"{step} makes {len(made)} results, but {len(step.outputs)} are declared; export it again")
        # A compressed weight is what the program declares in either mode; what was only moved is rounded already.
        rounds = (self.half and step.op.widens) or step.type.startswith("constexpr_")
        operands = {id(self.values[name]) for names in step.inputs.values() for name in names}
        pairs = zip(step.outputs.items(), made, strict=True)
        return {name: _checked(step, kind, value, rounds, id(value) not in operands) for (name, kind), value in pairs}

    def _results(self, step: Step) -> Any:
        """Return what a step's operation makes of its operands."""
        given: dict[str, Any] = {
            parameter: [self._operand(step, name) for name in names]
            if parameter in step.op.lists
            else self._operand(step, names[0])
            for parameter, names in step.inputs.items()
        }
        if step.op.has_blocks:
            given[BLOCKS] = [self._function(block) for block in step.blocks]
        check_room(step, given)
        return step.op.function(**given)

    def _operand(self, step: Step, name: str) -> Any:
        value = self.values[name]
        if isinstance(value, Blob):
            value = value.read()
        widens = step.op.widens and isinstance(value, np.ndarray) and value.dtype == np.float16
        return from_half(value) if widens else value

    def _function(self, block: Block) -> Callable[..., tuple[Any, ...]]:
        """Return a function that runs a block on the values of its inputs."""

        def run(*given: Any) -> tuple[Any, ...]:
            self.values.update(zip(block.inputs, given, strict=True))
            self.run(block.steps)
            results = tuple(self.values[name] for name in block.outputs)
            for name in block.made & self.values.keys():
                del self.values[name]
            return tuple(each.read() if isinstance(each, Blob) else each for each in results)

        return run


def _checked(step: Step, kind: Type, value: Any, rounds: bool, is_new: bool) -> Any:
    """Return a result as its declared type asks; one that is new, and no part of another array, may be written."""
    if not isinstance(kind, TensorType):
        return value
    array = np.asarray(value)
    if not kind.accepts(array.shape):
        raise InputError(f"{step} makes a tensor of {list(array.shape)}, but declares {kind}; export it again")
    return stored(array, kind, rounds, is_new and array.base is None)


def stored(value: np.ndarray, kind: TensorType, half: bool, own: bool = False) -> np.ndarray:
    """Return a value as the mode keeps it: of the declared type, but for floats.

    Those are float32, with `half` rounded to the nearest half where a half is declared: the next operation computes in
    float32, and need not widen it. A stored weight that was only moved is left as small as it is. A value that is the
    evaluator's `own` may be written.
    """
    if kind.dtype.floating:
        if value.dtype == np.float16:
            return value
        single = value.astype(np.float32, copy=False)
        return nearest_half(single, own) if half and is_half(kind) else single
    if kind.dtype.numpy.kind == "U":
        return value
    return value.astype(kind.dtype.numpy, copy=False)


def _traced(step: Step, results: Mapping[str, Any], half: bool, seconds: float) -> Iterator[OpTrace]:
    for name, value in results.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            finite = value[np.isfinite(value)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
            nans = int(np.isnan(value).sum())
            infinities = value.size - finite.size - nans
            dtype = "float16" if half and is_half(step.outputs[name]) else value.dtype.name
            yield OpTrace(step.type, name, dtype, step.position, low, high, infinities, nans, seconds)
