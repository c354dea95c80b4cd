"""Core ML: an ML program in an .mlpackage, iOS 17 and later, with fixed shapes (the Neural Engine takes no others)."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import torch

from export.graph import Graph
from export.targets.trace import trace
from lorarar.cli import quiet_toolchains


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Convert and save. In fp16 the inputs and outputs are fp16 too, so that no cast stands at the border."""
    half = precision == "fp16"
    dtype = np.float16 if half else np.float32
    program = trace(graph, torch.float32)
    with quiet_toolchains():
        program = program.run_decompositions({})
        model = ct.convert(
            program,
            inputs=[ct.TensorType(name, graph.fixed(shape), dtype) for name, shape in graph.inputs.items()],
            outputs=[ct.TensorType(name, dtype=dtype) for name in graph.outputs],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            skip_model_load=True,
        )
    model.save(str(path))
