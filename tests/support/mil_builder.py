"""Builds small Core ML packages with coremltools for the tests of runtime_py.mil."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.toolchains import import_coremltools, quiet_toolchains
from runtime_py.mil.package import Package

# Importing coremltools imports torch extensions, which leave files open and use deprecated names.
with quiet_toolchains():
    ct = import_coremltools()
    from coremltools.converters.mil import Builder as mb  # noqa: N813 - its documented name
    from coremltools.converters.mil.mil import types

# ct.convert collects garbage on every call, 0.3 s with torch's objects in memory and none with those set apart.
gc.freeze()

TARGETS = {15: ct.target.iOS15, 16: ct.target.iOS16, 17: ct.target.iOS17, 18: ct.target.iOS18}
TYPES = {np.dtype(np.float32): types.fp32, np.dtype(np.float16): types.fp16, np.dtype(np.int32): types.int32}


def save(
    path: Path,
    build: Callable[..., Any],
    inputs: dict[str, np.ndarray],
    ios: int = 17,
    half: bool = False,
    outputs: list[str] | None = None,
) -> Path:
    """Save the program that `build` makes of its inputs, just as it was written: no pass may fold or fuse anything."""
    target = TARGETS[ios]
    specs = [mb.TensorSpec(shape=value.shape, dtype=TYPES[value.dtype]) for value in inputs.values()]
    names = ", ".join(inputs)
    # The builder reads the names of the inputs off the function's own parameters.
    function = eval(f"lambda {names}: build({names})", {"build": build})
    with quiet_toolchains():  # coremltools uses deprecated names
        program = mb.program(input_specs=specs, opset_version=target)(function)
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.DEFAULT if half else ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def changed(change: Callable[[Any], None], source: Path, target: Path) -> Path:
    """Copy a package with its specification changed."""
    spec = Package.open(source).spec
    change(spec)
    shutil.copytree(source, target)
    (target / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())
    return target


def close(actual: np.ndarray, expected: Any, tolerance: float = 1e-6) -> None:
    """Same shape, and the same values to `tolerance` of the largest; infinities and NaN in the same places."""
    want = np.asarray(expected)
    assert actual.shape == want.shape
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, want)
        return
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.where(finite, 0, actual), np.where(finite, 0, want))
    largest = float(np.abs(want[finite]).max()) if finite.any() else 0.0
    error = np.abs(actual[finite].astype(np.float64) - want[finite].astype(np.float64))
    assert error.size == 0 or error.max() <= tolerance * max(largest, 1e-30), error.max() / largest


def spread(*shape: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Reproducible float32 values of both signs."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def half(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


def only(outputs: dict[str, np.ndarray]) -> np.ndarray:
    (value,) = outputs.values()
    return value
