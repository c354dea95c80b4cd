"""One artifact of a bundle as the manifest describes it: its file, its inputs and outputs, its golden tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.layout import Shape
from runtime_py.golden import WITHOUT
from runtime_py.parity import Tolerance

ONNX_MODEL = "model.onnx"
"""The graph's file in an ONNX artifact that is a folder: one whose weights are too large for one file."""
DTYPES = {"float32": np.float32, "float16": np.float16, "int32": np.int32}


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an artifact; a size given by name (`stacked_rank`) may differ from run to run."""

    name: str
    dtype: Any
    shape: Shape


@dataclass(frozen=True)
class Component:
    """One artifact of a bundle."""

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    golden_path: Path
    golden_inputs: Mapping[str, Mapping[str, Any]]
    entry: Mapping[str, Any]  # the manifest's own

    @classmethod
    def of_entry(cls, folder: Path, name: str, entry: Mapping[str, Any]) -> Component:
        """Make a component of its entry in the manifest of the bundle in `folder`."""
        inputs, outputs = (
            tuple(TensorSpec(t["name"], DTYPES[t["dtype"]], tuple(t["shape"])) for t in entry[end])
            for end in ("inputs", "outputs")
        )
        golden = entry["golden"]
        return cls(
            name,
            folder / entry["file"],
            inputs,
            outputs,
            Tolerance.from_json(entry["tolerance"]),
            folder / golden["file"],
            golden["inputs"],
            entry,
        )

    @property
    def takes_loras(self) -> bool:
        """Tell whether its output depends on LoRAs and their coefficients."""
        return any(spec.name.startswith("coefficients_") for spec in self.inputs)

    def golden_without(self) -> dict[str, np.ndarray]:
        """Read the sampled values of every output with coefficients of zero; none where it takes no LoRAs."""
        names = [spec.name for spec in self.outputs] if self.takes_loras else []
        return {name: read_tensors(self.golden_path, [f"{name}.{WITHOUT}"])[0] for name in names}

    def golden_outputs(self) -> dict[str, dict[str, np.ndarray]]:
        """Read what the golden file keeps of every output: `values`, `mean` and `rms`."""
        return read_golden(self.golden_path, [spec.name for spec in self.outputs])


def read_golden(path: Path, outputs: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Read `values`, `mean` and `rms` of the named outputs. Raises InputError when the file lacks one."""
    kept = ("values", "mean", "rms")
    return {
        name: dict(zip(kept, read_tensors(path, [f"{name}.{key}" for key in kept]), strict=True)) for name in outputs
    }


def read_tensors(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Read tensors of a golden file by name. Raises InputError when the file lacks one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return [tensors[name] for name in names]
    except (SafetensorError, KeyError):
        raise InputError(f"{path}: not a golden file of this bundle; export the bundle again") from None
