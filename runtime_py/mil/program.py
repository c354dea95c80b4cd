"""Open a Core ML program and run it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.blob import Blob
from runtime_py.mil.chain import chain
from runtime_py.mil.features import Described, Feature, described_functions, seen
from runtime_py.mil.graph import FunctionPlan, build, require_known
from runtime_py.mil.interpreter import MODES, Interpreter, OpTrace, Progress, stored
from runtime_py.mil.ops.control import State
from runtime_py.mil.package import Package, one_sentence
from runtime_py.mil.values import TensorType, Type, is_half
from runtime_py.mil.work import multiply_adds

if TYPE_CHECKING:
    from PIL import Image

States = dict[str, State]
"""What a function keeps from one run to the next, by name."""


@dataclass(frozen=True)
class Function:
    """One function: its plan, and what the description says of its inputs and outputs."""

    plan: FunctionPlan
    features: dict[str, Feature]
    outputs: dict[str, Any]  # FeatureType messages by name

    @classmethod
    def of(cls, plan: FunctionPlan, described: Described, name: str) -> Function:
        """Join the two. Raises InputError where they contradict each other."""
        if described.states != plan.states.keys():
            raise InputError(f"the description and the program disagree on the states of {name}; export it again")
        described.check_outputs(plan.outputs, name)
        return cls(plan, described.features(plan.inputs, name), described.outputs)


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A saved Core ML program. Its weights stay in the file until the operation that needs them runs."""

    path: Path
    specification_version: int
    _functions: dict[str, Function]  # the default one first

    @classmethod
    def open(cls, path: Path | str) -> Program:
        """Read and check a package; raises InputError when it is damaged or holds an operation unknown here."""
        with one_sentence(path):
            return cls._opened(Path(path))

    @classmethod
    def _opened(cls, path: Path) -> Program:
        package = Package.open(path)
        require_known(package)
        parts = [_built(package, part) for part in package.parts]
        if package.spec.WhichOneof("Type") != "pipeline":
            return cls(path, package.spec.specificationVersion, parts[0])
        described = described_functions(package.spec)["main"]
        plan = chain([next(iter(functions.values())).plan for functions in parts], described.outputs)
        whole = {plan.name: Function.of(plan, described, "the pipeline")}
        return cls(path, package.spec.specificationVersion, whole)

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions, the default one first."""
        return tuple(self._functions)

    @property
    def inputs(self) -> dict[str, TensorType]:
        """Inputs of the default function."""
        return self.signature()[0]

    @property
    def outputs(self) -> dict[str, Type]:
        """Outputs of the default function."""
        return self.signature()[1]

    def signature(self, function: str | None = None) -> tuple[dict[str, TensorType], dict[str, Type]]:
        """Return the inputs and outputs of a function, by default of the default one."""
        plan = self._function(function).plan
        return dict(plan.inputs), dict(plan.outputs)

    def op_counts(self, function: str | None = None) -> Counter[str]:
        """Count the operations of each type that a function has, constants included."""
        return Counter(self._function(function).plan.op_types)

    def multiply_adds(self, function: str | None = None) -> int:
        """Return the multiply-adds of one run's products and convolutions."""
        return multiply_adds(self._function(function).plan)

    def make_state(self, function: str | None = None) -> States:
        """Return a function's states, all zeros; runs that are given them read and change them."""
        kinds = self._function(function).plan.states
        with one_sentence(self.path):
            sizes = {name: [size or 0 for size in kind.shape] for name, kind in kinds.items()}
            return {name: State(np.zeros(sizes[name], kind.dtype.numpy)) for name, kind in kinds.items()}

    def run(
        self,
        inputs: Mapping[str, Any],
        mode: str = "fp16",
        function: str | None = None,
        trace: list[OpTrace] | None = None,
        progress: Progress | None = None,
        state: States | None = None,
    ) -> dict[str, Any]:
        """Run a function and return its outputs by name, as the program makes them.

        A list given as `trace` receives one record for each float result, in order of execution. Without a `state`
        a run starts from zeros, and what it writes is lost. Raises InputError when the inputs are not what the program
        describes, or when it contradicts itself.
        """
        if mode not in MODES:
            raise InputError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
        found, half = self._function(function), mode == "fp16"
        kept = self.make_state(function) if state is None else state
        if kept.keys() != found.plan.states.keys():
            raise InputError(f"the state is of another function; give what make_state({function!r}) returns")
        # Overflow is a result here, which the trace reports, and no mistake of the evaluator's.
        with np.errstate(all="ignore"):
            values = {**found.plan.constants, **kept, **_checked(inputs, found.features, half)}
            Interpreter(values, half, trace).run(found.plan.steps, progress)
        return {output: _output(values[output], kind, half) for output, kind in found.plan.outputs.items()}

    def predict(
        self,
        data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        state: States | None = None,
        *,
        mode: str = "fp16",
        function: str | None = None,
    ) -> Any:
        """Run a function as `coremltools.models.MLModel.predict` does, and return what an app sees.

        `data` is a dictionary, or a list of them, which gives a list. Images come and go as `PIL.Image`, a label as a
        string or a number, half precision goes as float32.
        """
        if not isinstance(data, Mapping):
            if state is not None:
                raise InputError("a list of inputs takes no state; give one dictionary at a time")
            return [self.predict(each, mode=mode, function=function) for each in data]
        return self.seen(self.run(data, mode, function, state=state), function)

    def seen(self, outputs: Mapping[str, Any], function: str | None = None) -> dict[str, Any]:
        """Return what `run` returned as `predict` would."""
        messages = self._function(function).outputs
        with one_sentence(self.path):
            return {name: seen(value, messages[name]) for name, value in outputs.items()}

    def random_inputs(self, seed: int, function: str | None = None) -> dict[str, np.ndarray]:
        """Make inputs to try a program with: normal numbers, pixels, zeros of whole ones; open sizes are the least."""
        rng = np.random.default_rng(seed)
        with one_sentence(self.path):
            return {name: feature.random(rng) for name, feature in self._function(function).features.items()}

    def fit_image(self, name: str, image: Image.Image, function: str | None = None) -> Image.Image:
        """Return an image with the colours and of the size that an input takes."""
        features = self._function(function).features
        if name not in features or features[name].colour is None:
            raise InputError(f"{name!r} is no input that takes an image; the inputs are {', '.join(features)}")
        with one_sentence(self.path):
            return features[name].fitted(image)

    def _function(self, name: str | None) -> Function:
        if name is None:
            return next(iter(self._functions.values()))
        if name not in self._functions:
            raise InputError(f"{self.path} has no function {name!r}; it has {', '.join(self._functions)}")
        return self._functions[name]


def _built(package: Package, spec: Any) -> dict[str, Function]:
    """Build the functions of one model, each with what the model's description says of it."""
    functions, described = spec.mlProgram.functions, described_functions(spec)
    if described.keys() - functions.keys():
        raise InputError(f"{package.root} describes functions that its program does not have; export it again")
    return {name: Function.of(build(name, functions[name], package), each, name) for name, each in described.items()}


def _checked(inputs: Mapping[str, Any], features: dict[str, Feature], half: bool) -> dict[str, np.ndarray]:
    needed = {name for name, feature in features.items() if feature.default is None}
    missing, extra = sorted(needed - inputs.keys()), sorted(inputs.keys() - features.keys())
    if missing or extra:
        wrong = f"lack {missing[0]!r}" if missing else f"have {extra[0]!r}, which it does not take"
        raise InputError(f"the inputs {wrong}; the program takes {', '.join(features) or 'none'}")
    given = {name: inputs.get(name, feature.default) for name, feature in features.items()}
    return {name: stored(feature.check(given[name]), feature.type, half) for name, feature in features.items()}


def _output(value: Any, kind: Type, half: bool) -> Any:
    if isinstance(value, dict):
        return value
    array = value.read() if isinstance(value, Blob) else np.asarray(value)
    if array.dtype.kind != "f":
        return array
    # In fp16 mode a value that is declared half is one already, if a wide one.
    return array.astype(np.float16 if half and is_half(kind) else np.float32, copy=False)
