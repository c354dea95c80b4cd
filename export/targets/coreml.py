"""Core ML: an ML program in an .mlpackage, iOS 17 and later, with fixed shapes (the Neural Engine takes no others)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import coremltools as ct
import numpy as np
import torch
from coremltools.proto import Model_pb2

from export.graph import Graph
from export.targets.trace import trace
from lorarar.cli import quiet_toolchains


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Convert and save. In fp16 the inputs and outputs are fp16 too, so that no cast stands at the border."""
    half = precision == "fp16"
    dtype = np.float16 if half else np.float32
    kept = {torch.float32: np.float32, torch.int32: np.int32}
    types = {name: kept.get(graph.kept.get(name), dtype) for name in graph.inputs}
    program = trace(graph, torch.float32)
    with quiet_toolchains():
        program = program.run_decompositions({})
        model = ct.convert(
            program,
            inputs=[ct.TensorType(name, graph.fixed(shape), types[name]) for name, shape in graph.inputs.items()],
            outputs=[ct.TensorType(name, dtype=dtype) for name in graph.outputs],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.transform.FP16ComputePrecision(_not_of_time) if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    model.save(str(path))
    _same_input_same_bytes(path)


_TIME_STEPS = 6  # operations from a timestep to its sine, at most


def _not_of_time(operation: Any) -> bool:
    """Whether an operation may be in fp16: all but sin, cos and what leads to them, the time embedding's frequencies.

    In fp16 they cost 11 dB at t = 500 and 16 at t = 999.
    """
    ahead = [operation]
    for _ in range(_TIME_STEPS):
        if any(op.op_type in ("sin", "cos") for op in ahead):
            return False
        ahead = [child for op in ahead for output in op.outputs for child in output.child_ops]
        if len(ahead) > 64:  # far from any time embedding
            return True
    return True


def _same_input_same_bytes(package: Path) -> None:
    """Undo what coremltools draws by chance: the items' identifiers and the order of the program's maps."""
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text())
    names = {old: str(uuid5(NAMESPACE_URL, item["path"])) for old, item in manifest["itemInfoEntries"].items()}
    entries = {names[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = dict(sorted(entries.items()))
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4) + "\n")
    model = package / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    spec = Model_pb2.Model.FromString(model.read_bytes())
    model.write_bytes(spec.SerializeToString(deterministic=True))
