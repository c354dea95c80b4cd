"""Backends: one type that runs an artifact, one file a target. A toolchain is imported only when it is asked for.

The file `runtime_py/backends/TARGET.py` is the backend of a target: its `BACKEND` says which packages it needs and how
it loads an artifact. Importing the file imports no toolchain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from numbers import Integral
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from lorarar.errors import InputError, said_by
from lorarar.toolchains import named_if_missing
from runtime_py.component import MEND, Component, TensorSpec

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle


MAX_THREADS = 1024  # far more than a machine has cores; a runtime starts them all


@runtime_checkable
class Runner(Protocol):
    """A loaded artifact."""

    runtime: str  # what really runs it, for records and parity
    version: str
    note: str  # what this run does not show, or ""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return outputs by name for inputs by name; sizes and types are those of the component."""
        ...


Way = Callable[[], Runner]
"""Loads an artifact in one of the ways that a machine has. Raises InputError where the runtime refuses it."""


@dataclass(frozen=True)
class Backend:
    """What runs the artifacts of one target."""

    packages: tuple[str, ...]  # what must be installed
    extra: str  # the extra of this project that brings them
    load: Callable[[], object]  # imports the toolchain
    ways: Callable[[Component, int | None], Sequence[Way]]  # as `ways_to_run`, once the toolchain is loaded


def targets() -> tuple[str, ...]:
    """Return the targets that have a backend."""
    return tuple(sorted(module.name for module in iter_modules(__path__)))


def load_backend(target: str) -> Backend:
    """Import a target's backend and its toolchain, which takes longer than loading a hypernetwork.

    Raises InputError for an unknown target, and for a missing toolchain with the extra to install.
    """
    if target not in targets():
        raise InputError(f"no backend runs {target!r}; there are {', '.join(targets())}")
    backend: Backend = import_module(f"{__name__}.{target}").BACKEND
    with named_if_missing(backend.packages, backend.extra):
        backend.load()
    return backend


def ways_to_run(bundle: Bundle, name: str = "hypernet", threads: int | None = None) -> Sequence[Way]:
    """Return the ways in which this machine can run a component, each of which loads it; the first is the closest to a
    device. `threads` None leaves the number to the runtime; coreml, coreai and qnn can be given none. Raises InputError
    for what is no number of threads, and as `Bundle.verified` and `load_backend`.
    """
    is_count = isinstance(threads, Integral) and not isinstance(threads, bool) and 1 <= threads <= MAX_THREADS
    if threads is not None and not is_count:
        raise InputError(f"`threads` is {threads!r}; give a whole number of 1 to {MAX_THREADS}, or leave it out")
    component = bundle.verified(name)
    return load_backend(bundle.manifest["target"]).ways(component, threads)


def open_runner(bundle: Bundle, name: str = "hypernet", threads: int | None = None) -> Runner:
    """Load a component in the first of the ways of `ways_to_run`."""
    return ways_to_run(bundle, name, threads)[0]()


@dataclass
class Runners:
    """A bundle's components, each loaded when it is asked for, and from then on kept or not."""

    bundle: Bundle
    threads: int | None = None
    keep: bool = False
    loaded: dict[str, Runner] = field(default_factory=dict)

    def __call__(self, name: str) -> Runner:
        """Return a component, loaded. Where none is kept, it is freed when the caller lets go of it."""
        found = self.loaded.get(name) or open_runner(self.bundle, name, self.threads)
        if self.keep:
            self.loaded[name] = found
        return found


def unusable(component: Component, runtime: str, verb: str, error: Exception, mend: str = MEND) -> InputError:
    """Make the error for an artifact that a runtime does not load or run, with what it said.

    `mend` is what to do about it; nothing where it said that. Raises a MemoryError again: no export mends it.
    """
    if isinstance(error, MemoryError):
        raise error
    return InputError(f"{component.path}: {runtime} can't {verb} it ({said_by(error)}){mend and '; '}{mend}")


def checked_inputs(component: Component, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs in the component's order and types.

    Raises InputError for one that is missing, unknown or of another shape.
    """
    unknown = sorted(set(inputs) - {spec.name for spec in component.inputs})
    missing = [spec.name for spec in component.inputs if spec.name not in inputs]
    if unknown or missing:
        what = f"no input {unknown[0]}" if unknown else f"got no {missing[0]}"
        raise InputError(f"{component.name} has {what}; its inputs are listed in manifest.json")
    sizes: dict[str, int] = {}
    return {spec.name: _checked(component, spec, inputs[spec.name], sizes) for spec in component.inputs}


def checked_outputs(component: Component, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the component's outputs in its order. A program can compute other shapes than those that it declares.

    Raises InputError for one that is missing or of another shape.
    """
    for spec in component.outputs:
        found = outputs.get(spec.name)
        if found is None or len(found.shape) != len(spec.shape):
            raise component.other_tensors()
        if any(have != want for have, want in zip(found.shape, spec.shape, strict=True) if not isinstance(want, str)):
            raise component.other_tensors()
    return {spec.name: outputs[spec.name] for spec in component.outputs}


def _checked(component: Component, spec: TensorSpec, tensor: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
    shape = tensor.shape
    fits = len(shape) == len(spec.shape)
    for have, want in zip(shape, spec.shape, strict=False):
        # A size given by name may be any number, but it is the same one in every input.
        fits = fits and have == (sizes.setdefault(want, have) if isinstance(want, str) else want)
    if not fits:
        raise InputError(f"{component.name}: {spec.name} has shape {shape}, it needs {spec.shape}")
    return np.ascontiguousarray(tensor, spec.dtype)
