"""ONNX: one file, standard operators, the rank left open."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from export.graph import Graph
from export.targets.trace import trace
from lorarar.cli import quiet_toolchains

OPSET = 20


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Convert, check and save."""
    dtype = torch.float16 if precision == "fp16" else torch.float32
    with quiet_toolchains():
        program = torch.onnx.export(
            trace(graph, dtype, dynamic=True),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.checker.check_model(model)
    onnx.save(model, path)
