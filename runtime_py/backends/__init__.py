"""Backends: one type that runs an artifact, one file a runtime. A toolchain is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain, quiet_toolchains
from runtime_py.bundle import Bundle, Component, TensorSpec


@runtime_checkable
class Session(Protocol):
    """A loaded artifact."""

    runtime: str  # what really runs it, for records and parity
    version: str
    note: str  # what this run does not show, or ""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; sizes and types are those of the component."""
        ...


# target → (module, the packages it needs, the extra that brings them)
BACKENDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "onnx": ("runtime_py.backends.onnx", ("onnxruntime",), "onnx"),
    "coreml": ("runtime_py.backends.coreml", ("coremltools",), "coreml"),
    "executorch": ("runtime_py.backends.executorch", ("executorch", "torch"), "executorch"),
}


def open_sessions(bundle: Bundle, name: str = "merger", threads: int | None = None) -> Iterator[Session]:
    """Every way this machine can run a component, each loaded when it is asked for; the first is the closest to a
    device. `threads` None leaves the number to the runtime.
    """
    component = bundle.component(name)
    yield from load_backend(bundle.manifest["target"]).sessions(component, threads)


def load_backend(target: str) -> Any:
    """Import a target's backend and its toolchain, which takes longer than loading a merger. InputError names the
    extra to install.
    """
    module, packages, extra = BACKENDS[target]
    try:
        with quiet_toolchains():
            return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise missing_toolchain(packages[0], extra) from None


def open_session(bundle: Bundle, name: str = "merger", threads: int | None = None) -> Session:
    """The first of `open_sessions`."""
    return next(open_sessions(bundle, name, threads))


def unusable(component: Component, runtime: str, verb: str, error: Exception) -> InputError:
    """The error for an artifact that a runtime does not load or run, with the first line of what it said."""
    said = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return InputError(f"{component.path}: {runtime} can't {verb} it ({said}); export the bundle again")


def checked_inputs(component: Component, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs in the component's order and types; InputError names a missing, unknown or misshapen one."""
    unknown = sorted(set(inputs) - {spec.name for spec in component.inputs})
    missing = [spec.name for spec in component.inputs if spec.name not in inputs]
    if unknown or missing:
        what = f"no input {unknown[0]}" if unknown else f"got no {missing[0]}"
        raise InputError(f"{component.name} has {what}; its inputs are listed in manifest.json")
    sizes: dict[str, int] = {}
    return {spec.name: _checked(component, spec, inputs[spec.name], sizes) for spec in component.inputs}


def _checked(component: Component, spec: TensorSpec, tensor: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    shape = tensor.shape
    fits = len(shape) == len(spec.shape)
    for have, want in zip(shape, spec.shape, strict=False):
        # A size given by name may be anything, but the same in every input.
        fits = fits and have == (sizes.setdefault(want, have) if isinstance(want, str) else want)
    if not fits:
        raise InputError(f"{component.name}: {spec.name} has shape {shape}, it needs {spec.shape}")
    return np.ascontiguousarray(tensor, spec.dtype)
