"""One artifact of a bundle as the manifest describes it: its file, its inputs and outputs, its golden tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.layout import COEFFICIENTS, Shape
from runtime_py.golden import WITHOUT
from runtime_py.parity import Tolerance

ONNX_MODEL = "model.onnx"
"""The graph's file in an ONNX artifact that is a folder: one whose weights are too large for one file."""
NEURAL_ENGINE_BYTES = 1_000_000_000
"""Weights that one Core ML model may have to be taken by the Neural Engine: about 1 GB, by those who met the limit."""
INNER = 32
"""What the Neural Engine wants the inner size of a product of two activations to be a multiple of."""
MEND = "export the bundle again"
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
    def is_half(self) -> bool:
        """Whether its inputs are in half precision; compressed weights of some targets leave them in fp32."""
        return any(spec.dtype == np.float16 for spec in self.inputs)

    @property
    def onnx_model(self) -> Path:
        """The graph's own file in an ONNX artifact, which is a folder where its weights have files of their own."""
        return self.path / ONNX_MODEL if self.path.is_dir() else self.path

    def other_tensors(self) -> InputError:
        """Make the error for an artifact whose tensors are not those that the manifest states."""
        return InputError(f"{self.path}: its tensors are not the manifest's; {MEND}")

    def input_width(self, name: str) -> int:
        """Return the last size of an input; 0 where there is no such input, or no fixed size."""
        found = next((spec.shape for spec in self.inputs if spec.name == name), ())
        return int(found[-1]) if found and isinstance(found[-1], int) else 0

    def golden(self) -> Golden:
        """Read what the golden file keeps of every output, also without LoRAs where it takes them."""
        names = [spec.name for spec in self.outputs]
        takes_loras = any(spec.name.startswith(COEFFICIENTS) for spec in self.inputs)
        return read_golden(self.golden_path, names, without=takes_loras)


@dataclass(frozen=True)
class Golden:
    """What a golden file keeps of outputs, by name."""

    outputs: Mapping[str, Mapping[str, np.ndarray]]  # `values`, `mean` and `rms`
    without: Mapping[str, np.ndarray]  # sampled values with coefficients of zero; empty where no LoRA is taken


def read_golden(path: Path, outputs: Sequence[str], without: bool = False) -> Golden:
    """Read what a golden file keeps of the named outputs.

    Raises InputError when it is no such file, lacks a tensor of one, or has one of another shape without LoRAs.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    refusal = InputError(f"{path}: not a golden file of this bundle; {MEND}")
    if not path.is_file():
        raise refusal
    try:
        tensors = load_file(path)
        kept = {name: {key: tensors[f"{name}.{key}"] for key in ("values", "mean", "rms")} for name in outputs}
        alone = {name: tensors[f"{name}.{WITHOUT}"] for name in outputs} if without else {}
    except (SafetensorError, KeyError, TypeError, AttributeError):  # the last two: of a type that numpy lacks
        raise refusal from None
    if any(tensor.dtype.kind != "f" for parts in kept.values() for tensor in parts.values()):
        raise refusal
    if any(values.shape != kept[name]["values"].shape for name, values in alone.items()):
        raise refusal
    return Golden(kept, alone)
