"""Convert graphs to ONNX: one file, or a folder where the weights are too large for one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as onnx_passes
import torch
from onnx import helper, numpy_helper
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules

from export.graph import Graph
from export.targets.trace import trace
from lorarar.toolchains import import_onnxruntime, quiet_toolchains
from runtime_py.component import ONNX_MODEL

OPSET = 20
_RULES = [
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
]
BITS = {"w8": 8, "w4": 4}
BLOCK = 32  # weights along an input that share a scale
# Bytes of weights that go into one file. A runtime reads that into its memory, and maps weights that lie beside a
# graph, which then take none: KOALA-700M's UNet in w8 is loaded into 0.1 GiB in place of 0.9.
ONE_FILE = 64_000_000
WEIGHTS = "weights.bin"
# The first and the last layer stay in float: all that is drawn goes through them, and they are next to nothing.
_DECISIVE = ("unet.conv_in.", "unet.conv_out.")
_LARGEST = 127  # of an int8


def convert(graph: Graph, precision: str, path: Path, one_file: int | None = None) -> None:
    """Convert a graph, save it as `path` and let ONNX's own checker look at it.

    Over `one_file` bytes of weights (default: ONE_FILE), `path` is a folder, whose weights a reader can map.
    """
    dtype = torch.float16 if precision == "fp16" else torch.float32
    with quiet_toolchains():
        program = torch.onnx.export(
            trace(graph, dtype),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
            optimize=False,
        )
        assert program is not None
        model = program.model
        weights = list(model.graph.initializers.values())
        _free_sizes(graph, model)
        _simplify(model)
        if precision in BITS:
            model = ir.from_proto(_quantize(ir.to_proto(model), BITS[precision]))
        _forget_origins(model)
        onnx.checker.check_model(str(_save(model, path, ONE_FILE if one_file is None else one_file)))
    # The optimizer's rules keep the last graph that they saw, as it was before and after them: gigabytes with its
    # weights, a few megabytes without.
    for value in [*weights, *model.graph.initializers.values()]:
        value.const_value = None


def _free_sizes(graph: Graph, model: ir.Model) -> None:
    """Leave open the sizes that have names, which no operation depends on; `_simplify` infers all shapes anew.

    Traced with open sizes, torch reasons about each of them at each of thousands of operations: a third of an export.
    """
    for value in model.graph.inputs:
        value.shape = ir.Shape(
            [size if isinstance(size, int) else ir.SymbolicDim(size) for size in graph.inputs[value.name or ""]]
        )
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None


def _simplify(model: ir.Model) -> None:
    """Fold constants and remove what does nothing. ONNX Runtime fuses and arranges the rest when it loads.

    The exporter's own optimizer gives the same graph, but one of its rules compares every slice with every other. There
    is a slice for each factor, and SDXL's took a quarter of an hour.
    """
    onnx_passes.InlinePass()(model)
    fold_constants(model, onnx_shape_inference=True)
    rewrite(model, _RULES)
    fold_constants(model, onnx_shape_inference=True)
    ir.passes.Sequential(
        onnx_passes.RemoveUnusedNodesPass(),
        onnx_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        onnx_passes.DeduplicateInitializersPass(),
        onnx_passes.CommonSubexpressionEliminationPass(),
    )(model)


def _forget_origins(model: ir.Model) -> None:
    """Drop the exporter's notes on every node: megabytes of stack traces, with the folders of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


def _save(model: ir.Model, path: Path, one_file: int) -> Path:
    """Write the model, as a folder where one file can't hold it, and return the graph's file."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights <= one_file:
        ir.save(model, path)
        return path
    path.mkdir()
    ir.save(model, path / ONNX_MODEL, external_data=WEIGHTS)
    return path / ONNX_MODEL


def _quantize(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Return the model with weights of `bits` bits; inputs, the adapters among them, stay in float. Uses the model up.

    Products with constant weights become ONNX Runtime's MatMulNBits: blocks along the input, a scale each. Convolutions
    have no such operation: their weights are int8 with a scale for each output channel, at 4 bits too.
    """
    import_onnxruntime()  # without its telemetry, whatever is imported of it next
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    quantized = quantizer.model.model
    _quantize_convolutions(quantized.graph)
    return quantized


def _quantize_convolutions(graph: onnx.GraphProto) -> None:
    """Put DequantizeLinear of an int8 constant before every convolution that is not decisive."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    users = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in weights]
    before: list[onnx.NodeProto] = []
    for name in dict.fromkeys(node.input[1] for node in users):
        if any(part in name for part in _DECISIVE):
            continue
        values = numpy_helper.to_array(weights[name])
        scale = np.abs(values).reshape(len(values), -1).max(axis=1) / _LARGEST
        scale = np.where(scale == 0, 1, scale).astype(values.dtype)
        rounded = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
        graph.initializer.remove(weights[name])
        graph.initializer.extend(
            [numpy_helper.from_array(rounded, f"{name}_q8"), numpy_helper.from_array(scale, f"{name}_scale")]
        )
        before.append(helper.make_node("DequantizeLinear", [f"{name}_q8", f"{name}_scale"], [name], axis=0))
    kept = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(kept)
