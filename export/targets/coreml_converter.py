"""Convert graphs to Core ML: an ML program in an .mlpackage, with fixed shapes.

A program whose weights exceed what the Neural Engine takes becomes a pipeline of chunks in the same package.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from coremltools.converters.mil.frontend.torch.ops import _get_inputs
from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
from coremltools.converters.mil.mil import Builder, Program
from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision
from coremltools.converters.mil.mil.passes.pass_registry import register_pass
from coremltools.proto import Model_pb2
from torch._export.verifier import Verifier
from torch.export import ExportedProgram
from tqdm import tqdm

from export.graph import Graph
from export.targets.core_aten import to_core_aten
from export.targets.coreml_chunks import cut
from export.targets.trace import has_hypernetwork, trace
from lorarar.toolchains import quiet_toolchains
from runtime_py.component import NEURAL_ENGINE_BYTES
from runtime_py.overflow import LARGEST_HALF


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Convert a graph and save it as `path`.

    In fp16 the inputs and outputs are fp16 too, so that no cast stands at the border; a hypernetwork has casts there,
    since it is computed in fp32.
    """
    half, wide = precision != "fp32", precision == "fp32" or has_hypernetwork(graph.module)
    dtype = np.float16 if half else np.float32
    types = dict.fromkeys(graph.inputs, dtype) | {name: _DTYPES[kind] for name, kind in graph.dtypes.items()}
    with quiet_toolchains(), _no_extras():
        program = ct.convert(
            _as_aten(trace(graph, torch.float32)),
            convert_to="milinternal",
            inputs=[ct.TensorType(name, graph.fixed(shape), types[name]) for name, shape in graph.inputs.items()],
            outputs=[ct.TensorType(name, dtype=dtype) for name in graph.outputs],
            minimum_deployment_target=ct.target.iOS17,
            pass_pipeline=ct.PassPipeline.EMPTY,
        )
        # From here on the program alone has the weights, so that each is freed once its successor is there.
        graph.give_back()
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32 if wide else ct.precision.FLOAT16,
            pass_pipeline=_passes(half=not wide),
            skip_model_load=True,
        )
        del program
        model = _compressed(model, precision)
    model.save(str(path))
    del model
    # Half a megabyte that only ExecuTorch's debugger reads; compressed models have none.
    (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    _same_input_same_bytes(path)
    cut(path, NEURAL_ENGINE_BYTES)


def _as_aten(program: ExportedProgram) -> ExportedProgram:
    """Return a traced program as one of ATen's operations, which coremltools asks for.

    What torch.export gives is called a training program, but none of ours writes into a tensor, so that nothing has to
    be traced a second time (`run_decompositions({})`, a tenth of the time).
    """
    to_core_aten(program)
    return ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=program.graph_signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        constants=program.constants,
        verifiers=[Verifier],
    )


@contextmanager
def _no_extras() -> Iterator[None]:
    """Let coremltools show no bar for each of its passes, and validate nothing after each; it has no options for that.

    Some 90 validations are a fifth of the time. What the passes make is run and compared with PyTorch anyway.
    """
    bar, validate = tqdm.__init__, Program.validate
    tqdm.__init__ = partialmethod(bar, disable=True)
    Program.validate = lambda *_, **__: None
    try:
        yield
    finally:
        tqdm.__init__, Program.validate = bar, validate


_DTYPES = {torch.float32: np.float32, torch.int32: np.int32}
_PALETTE_BITS = {"w6": 6, "w4": 4}
_LEAST_WEIGHTS = 2048  # smaller weights stay as they are: norms and biases, which decide much and save nothing
# So do the first and last layers and the embedding of time and size: all that is drawn goes through them, and they are
# a hundredth of the weights.
_DECISIVE = ("unet_conv_in_", "unet_conv_out_", "unet_time_embedding_", "unet_add_embedding_")
_CONVOLUTIONS = ("_conv1_", "_conv2_", "_conv_shortcut_", "_samplers_")
"""In the names of weights of convolutions; those of linears, which are 1×1 convolutions too, have none of them."""


def _compressed(model: Any, precision: str) -> Any:
    """Return the fp16 program with weights of few bits: int8, or palettes that have 6 bits for convolutions.

    Palettes are made by k-means, which gains 4 to 17 dB over uniform steps on weights spread as trained ones are.
    """
    if precision == "w8":
        linear = cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=_LEAST_WEIGHTS)
        return cto.linear_quantize_weights(model, _by_name(model, linear, linear))
    if precision in _PALETTE_BITS:
        linears, convolutions = (
            cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=_LEAST_WEIGHTS)
            for bits in (_PALETTE_BITS[precision], 6)
        )
        return cto.palettize_weights(model, _by_name(model, linears, convolutions))
    return model


def _by_name(model: Any, others: Any, convolutions: Any) -> Any:
    """Return a configuration with one for the weights of convolutions, another for others, none for decisive ones."""
    named: dict[str, Any] = {}
    for name in cto.get_weights_metadata(model):
        if any(part in name for part in _DECISIVE):
            named[name] = None
        elif any(part in name for part in _CONVOLUTIONS):
            named[name] = convolutions
    return cto.OptimizationConfig(others, op_name_configs=named)


@register_torch_op(torch_alias=["lorarar::channel_norm"])
def channel_norm(context: Any, node: Any) -> None:
    """Convert `export.channels_first.channel_norm`."""
    x, weight, bias, eps = _get_inputs(context, node, expected=4)
    context.add(Builder.layer_norm(x=x, axes=[1], gamma=weight, beta=bias, epsilon=eps, name=node.name))


def _passes(half: bool) -> Any:
    """Return coremltools' own passes, with a cast to fp16 that keeps no weight in two precisions."""
    passes = ct.PassPipeline()
    if half:
        cast = "common::add_fp16_cast"
        passes.passes = ["lorarar::halve" if name == cast else name for name in passes.passes]
    return passes


@register_pass(namespace="lorarar")
class halve(FP16ComputePrecision):  # noqa: N801  (coremltools registers a pass under its class's name)
    """coremltools' cast to fp16, which frees each weight in fp32 once it is cast.

    Its own `add_fp16_cast` leaves them to later passes, so that all are there twice: 15 GB for SDXL.
    """

    @staticmethod
    def fp16_overflow(op: Any) -> bool:
        """Tell whether a constant of the operation overflows fp16; coremltools' own copies each weight three times."""
        for given in op.get_flattened_inputs():
            if given.op is not None and given.op.op_type == "const" and given.is_tensor_or_scalar_of(dtype="fp32"):
                value = given.op.val.val
                if np.size(value) and not (np.max(value) <= LARGEST_HALF and np.min(value) >= -LARGEST_HALF):
                    return bool(FP16ComputePrecision.fp16_overflow(op))  # it lets infinities be
        return False

    def transform_op(self, op: Any) -> None:
        given = [value.op for value in op.get_flattened_inputs() if value.op is not None]
        own = [maker for maker in given if maker.op_type == "const" and len(maker.outputs[0].child_ops) == 1]
        block, gone = op.enclosing_block, []
        super().transform_op(op)
        for constant in own:
            (reader,) = constant.outputs[0].child_ops
            if reader.op_type == "cast":
                (cast,) = reader.outputs
                half = Builder.const(val=cast.val, name=cast.name, before_op=reader)
                block.replace_uses_of_var_after_op(anchor_op=reader, old_var=cast, new_var=half)
                block.remove_ops([reader, constant])
                gone += [reader, constant]
        # The pass walks a list of all operations, and an operation and its outputs refer to each other: without this,
        # the list would keep the weights until the end.
        for removed in [op, *gone] if gone else []:
            removed.__dict__.clear()


def _same_input_same_bytes(package: Path) -> None:
    """Replace what coremltools draws by chance: the identifiers of the items and the order of the program's maps."""
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text())
    names = {old: str(uuid5(NAMESPACE_URL, item["path"])) for old, item in manifest["itemInfoEntries"].items()}
    manifest["itemInfoEntries"] = dict(sorted((names[old], item) for old, item in manifest["itemInfoEntries"].items()))
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    file.write_text(json.dumps(manifest, indent=4) + "\n")
    model = package / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    spec = Model_pb2.Model.FromString(model.read_bytes())
    model.write_bytes(spec.SerializeToString(deterministic=True))
