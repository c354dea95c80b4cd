"""Store the weights of an ONNX graph in 8 or 4 bits. Inputs, the adapters among them, stay in float.

Products with constant weights become ONNX Runtime's MatMulNBits: blocks of 32 along the input, a scale each.
Convolutions have no such operation: their weights are int8 with a scale for each output channel, at 4 bits too.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lorarar.toolchains import import_onnxruntime

BLOCK = 32
# The first and the last layer stay in float: all that is drawn goes through them, and they are next to nothing.
_DECISIVE = ("unet.conv_in.", "unet.conv_out.")
_LARGEST = 127


def quantize_weights(model: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Return the model with products of `bits` bits and convolutions of 8 bits; the model given is used up."""
    import_onnxruntime()  # without its telemetry, whatever is imported of it next
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    quantized = quantizer.model.model
    _quantize_convolutions(quantized.graph)
    return quantized


def _quantize_convolutions(graph: onnx.GraphProto) -> None:
    """Put DequantizeLinear of an int8 constant before every convolution."""
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
