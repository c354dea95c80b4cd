"""Core ML: Apple's runtime on macOS, and anywhere our evaluator of the saved program."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from lorarar import __version__
from lorarar.toolchains import import_coremltools
from runtime_py.backends import Backend, Way, checked_inputs, checked_outputs, unusable
from runtime_py.component import Component
from runtime_py.mil import Program
from runtime_py.mil.values import TensorType

NO_APPLE = "the stored program and weights were evaluated; Apple's own kernels need macOS or a device"


class EvaluatorRunner:
    """Our evaluator of a saved package: numpy, rounding to fp16 after every operation or not at all."""

    note = NO_APPLE

    def __init__(self, component: Component, mode: Literal["fp16", "fp32"]) -> None:
        self.component = component
        self.mode = mode
        self.runtime = f"mil evaluator ({mode})"
        self.version = __version__
        self.program = Program.open(component.path)
        _check_signature(component, self.program)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.program.run(checked_inputs(self.component, inputs), mode=self.mode)


class CoreMLRunner:
    """Apple's Core ML through coremltools, on macOS."""

    note = ""

    def __init__(self, component: Component) -> None:
        ct = import_coremltools()
        self.component = component
        units = component.entry.get("compute_units", "all")
        self.runtime = f"Core ML ({'all units' if units == 'all' else units})"
        self.version = f"coremltools {ct.__version__}"
        try:
            self.model: Any = ct.models.MLModel(str(component.path), compute_units=_units(units))
        except Exception as error:  # coremltools raises what Apple's frameworks and its own readers do
            raise unusable(component, "Core ML", "load", error) from None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the program once."""
        given = checked_inputs(self.component, inputs)
        try:
            outputs = self.model.predict(given)
        except Exception as error:  # as above
            raise unusable(self.component, "Core ML", "run", error) from None
        return checked_outputs(self.component, {name: np.asarray(output) for name, output in outputs.items()})


def _units(name: str) -> Any:
    """Return Core ML's units by the manifest's name, those that the app gives the artifact."""
    units = import_coremltools().ComputeUnit
    return {
        "all": units.ALL,
        "cpu-only": units.CPU_ONLY,
        "cpu-and-gpu": units.CPU_AND_GPU,
        "cpu-and-neural-engine": units.CPU_AND_NE,
    }[name]


def ways(component: Component, threads: int | None) -> list[Way]:
    """Return Core ML where there is one, and the evaluator: in fp16, which predicts a device, and in fp32.

    `threads` can't be given to either: Core ML decides for itself, and numpy's BLAS by OPENBLAS_NUM_THREADS.
    """
    del threads
    apple = [partial(CoreMLRunner, component)] if sys.platform == "darwin" else []
    half = any(spec.dtype is np.float16 for spec in component.outputs)
    return [*apple, *(partial(EvaluatorRunner, component, mode) for mode in (("fp16", "fp32") if half else ("fp32",)))]


def load() -> None:
    """Import coremltools where Core ML itself can run; the evaluator does without, but for its file format's parser."""
    if sys.platform == "darwin":
        import_coremltools()


BACKEND = Backend(("coremltools",), "coreml", load, ways)


def _check_signature(component: Component, program: Program) -> None:
    for specs, have in ((component.inputs, program.inputs), (component.outputs, program.outputs)):
        stated = {spec.name: (spec.shape, np.dtype(spec.dtype)) for spec in specs}
        found = {
            name: (kind.shape, np.dtype(kind.dtype.numpy)) if isinstance(kind, TensorType) else None
            for name, kind in have.items()
        }
        if stated != found:
            raise component.other_tensors()
