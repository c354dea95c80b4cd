"""ONNX: one file, standard operators, the rank left open."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from export.graph import Graph
from export.targets.onnx_weights import quantize_weights
from export.targets.trace import trace
from lorarar.cli import quiet_toolchains

OPSET = 20
BITS = {"w8": 8, "w4": 4}


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
    if precision in BITS:
        with quiet_toolchains():
            model = quantize_weights(model, BITS[precision])
    _default_to_nothing(graph, model, dtype)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _default_to_nothing(graph: Graph, model: onnx.ModelProto, dtype: torch.dtype) -> None:
    """Give every factor a default of rank 0, which makes it an input that an `.onnx_adapter` may bring.

    ONNX Runtime's Python and Java bindings insist on being handed every input that has no default.
    """
    kind = onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.FLOAT
    for name, shape in graph.inputs.items():
        if any(isinstance(size, str) for size in shape):
            sizes = [0 if isinstance(size, str) else size for size in shape]
            model.graph.initializer.append(onnx.helper.make_tensor(name, kind, sizes, []))
