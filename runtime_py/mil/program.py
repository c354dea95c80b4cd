"""Open a Core ML program and run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.blob import Blob
from runtime_py.mil.chain import chain
from runtime_py.mil.features import Feature, described_functions
from runtime_py.mil.graph import FunctionPlan, Step, build, unknown_operations
from runtime_py.mil.half import from_half, to_half
from runtime_py.mil.ops import LIST_INPUT
from runtime_py.mil.package import Package
from runtime_py.mil.values import TensorType, Value
from runtime_py.mil.work import multiply_adds

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
    largest: float  # largest finite |value|
    infinities: int
    nans: int


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A saved Core ML program. Its weights stay in the file until the operation that needs them runs."""

    path: Path
    specification_version: int
    _graphs: dict[str, FunctionPlan]  # by function, the default one first
    _features: dict[str, dict[str, Feature]]

    @classmethod
    def open(cls, path: Path | str) -> Program:
        """Read and check a package; raises InputError when it is damaged or holds an operation unknown here."""
        package = Package.open(Path(path))
        unknown = unknown_operations(named for part in package.parts for named in part.mlProgram.functions.items())
        if unknown:
            raise InputError(f"{path}: operations that this evaluator does not know: {unknown}; export without them")
        parts = [_built(package, part) for part in package.parts]
        if package.spec.WhichOneof("Type") != "pipeline":
            return cls(Path(path), package.spec.specificationVersion, *parts[0])
        described = described_functions(package.spec)["main"]
        graph = chain([next(iter(graphs.values())) for graphs, _ in parts], described.outputs)
        features = described.features(graph.inputs, "the pipeline")
        return cls(Path(path), package.spec.specificationVersion, {graph.name: graph}, {graph.name: features})

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions, the default one first."""
        return tuple(self._graphs)

    @property
    def inputs(self) -> dict[str, TensorType]:
        """Inputs of the default function."""
        return self.signature()[0]

    @property
    def outputs(self) -> dict[str, TensorType]:
        """Outputs of the default function."""
        return self.signature()[1]

    def signature(self, function: str | None = None) -> tuple[dict[str, TensorType], dict[str, TensorType]]:
        """Return the inputs and outputs of a function, by default of the default one."""
        graph = self._graphs[self._name(function)]
        return dict(graph.inputs), dict(graph.outputs)

    def op_counts(self, function: str | None = None) -> Counter[str]:
        """Count the operations of each type that a function has, constants included."""
        return Counter(self._graphs[self._name(function)].op_types)

    def multiply_adds(self, function: str | None = None) -> int:
        """Return the multiply-adds of one run's products and convolutions."""
        return multiply_adds(self._graphs[self._name(function)])

    def stored_bytes(self) -> Counter[str]:
        """Count the constants' bytes by data type over all functions; those in the program itself are `immediate`.

        A blob that functions share counts once.
        """
        found: dict[Any, tuple[str, int]] = {}
        for name, graph in self._graphs.items():
            for constant, value in graph.constants.items():
                if isinstance(value, Blob):
                    found[value.data.ctypes.data] = (value.kind.dtype.name, value.data.nbytes)
                elif isinstance(value, np.ndarray):
                    found[name, constant] = ("immediate", value.nbytes)
        sizes: Counter[str] = Counter()
        for dtype, size in found.values():
            sizes[dtype] += size
        return sizes

    def run(
        self,
        inputs: Mapping[str, Any],
        mode: str = "fp16",
        function: str | None = None,
        trace: list[OpTrace] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """Run a function and return its outputs by name.

        A list given as `trace` receives one record for each float result, in order of execution. Raises
        InputError when the inputs are not what the program describes, or when it contradicts itself.
        """
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
        name = self._name(function)
        graph, half = self._graphs[name], mode == "fp16"
        # Overflow is a result here, which the trace reports, and no mistake of the evaluator's.
        with np.errstate(all="ignore"):
            values: dict[str, Any] = {**graph.constants, **_checked(inputs, self._features[name], half)}
            for done, step in enumerate(graph.steps, 1):
                results = _execute(step, values, half)
                values.update(results)
                if trace is not None:
                    trace.extend(_traced(step, results))
                for forgotten in step.frees:
                    del values[forgotten]
                if progress is not None:
                    progress(done, len(graph.steps))
        return {output: _output(values[output], half) for output in graph.outputs}

    def _name(self, function: str | None) -> str:
        if function is None:
            return next(iter(self._graphs))
        if function not in self._graphs:
            raise InputError(f"{self.path} has no function {function!r}; it has {', '.join(self._graphs)}")
        return function


def _built(package: Package, spec: Any) -> tuple[dict[str, FunctionPlan], dict[str, dict[str, Feature]]]:
    """Build the functions of one model and what it describes of their inputs, and check them against each other."""
    functions, described = spec.mlProgram.functions, described_functions(spec)
    if described.keys() - functions.keys():
        raise InputError(f"{package.root} describes functions that its program does not have; export it again")
    graphs = {name: build(name, functions[name], package) for name in described}
    features = {name: described[name].features(graphs[name].inputs, name) for name in described}
    for name, graph in graphs.items():
        if described[name].outputs != graph.outputs.keys():
            raise InputError(f"the description and the program disagree on the outputs of {name}; export it again")
    return graphs, features


def _checked(inputs: Mapping[str, Any], features: dict[str, Feature], half: bool) -> dict[str, np.ndarray]:
    missing, extra = sorted(features.keys() - inputs.keys()), sorted(inputs.keys() - features.keys())
    if missing or extra:
        wrong = f"lack {missing[0]!r}" if missing else f"have {extra[0]!r}, which it does not take"
        raise InputError(f"the inputs {wrong}; the program takes {', '.join(features) or 'none'}")
    return {name: _stored(feature.check(inputs[name]), feature.type, half) for name, feature in features.items()}


def _execute(step: Step, values: Mapping[str, Any], half: bool) -> dict[str, np.ndarray]:
    """Run a step and return its results by name."""
    op = step.op

    def operand(name: str) -> Value:
        value = values[name].read() if isinstance(values[name], Blob) else values[name]
        is_half = op.widens and isinstance(value, np.ndarray) and value.dtype == np.float16
        return from_half(value) if is_half else value

    given = {
        parameter: [operand(name) for name in names] if parameter == LIST_INPUT else operand(names[0])
        for parameter, names in step.inputs.items()
    }
    try:
        results = op.function(**given)
    except (ValueError, IndexError, TypeError, ArithmeticError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{step} cannot be computed: {reason}; export the package again") from error
    made = [np.asarray(result) for result in (results if isinstance(results, tuple) else (results,))]
    if len(made) != len(step.outputs):
        raise InputError(f"{step} makes {len(made)} tensors, but {len(step.outputs)} are declared; export it again")
    # A compressed weight is what the program declares in either mode.
    rounds = half or step.type.startswith("constexpr_")
    stored = {}
    for (name, kind), value in zip(step.outputs.items(), made, strict=True):
        if not kind.accepts(value.shape):
            raise InputError(f"{step} makes a tensor of {list(value.shape)}, but declares {kind}; export it again")
        stored[name] = _stored(value, kind, rounds)
    return stored


def _stored(value: np.ndarray, kind: TensorType, half: bool) -> np.ndarray:
    """Return a value in the type that the mode keeps it in: the declared one, or float32 for any float in fp32 mode."""
    if kind.dtype.floating and not half:
        # Half precision here is a stored weight that was only moved: exact, and left as small as it is.
        return value if value.dtype == np.float16 else value.astype(np.float32, copy=False)
    if kind.dtype.numpy == np.float16 and value.dtype == np.float32:
        return to_half(value)
    return value.astype(kind.dtype.numpy, copy=False)


def _output(value: Any, half: bool) -> np.ndarray:
    array = value.read() if isinstance(value, Blob) else np.asarray(value)
    return array if half or array.dtype.kind != "f" else array.astype(np.float32, copy=False)


def _traced(step: Step, results: Mapping[str, np.ndarray]) -> Iterator[OpTrace]:
    for name, value in results.items():
        if value.dtype.kind == "f":
            finite = value[np.isfinite(value)]
            largest = float(np.abs(finite).max()) if finite.size else 0.0
            nans = int(np.isnan(value).sum())
            infinities = value.size - finite.size - nans
            yield OpTrace(step.type, name, value.dtype.name, step.position, largest, infinities, nans)
