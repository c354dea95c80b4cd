"""Convert graphs to Core AI: a program in an .aimodel, with fixed shapes."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from coreai._compiler.dialects import coreai as ops
from coreai.authoring import AIProgram, graph_builder
from coreai_opt.coreai_utils import DType, palettize_weights, quantize_weights
from coreai_opt.coreai_utils.passes import weight_palettization, weight_quantization
from coreai_opt.deps import _kmeans1d as kmeans
from coreai_torch import TorchConverter
from torch.fx import Node

from export.graph import Graph
from export.targets.core_aten import to_core_aten
from export.targets.mlir_bytecode import number_constants
from export.targets.trace import trace
from lorarar.errors import InputError, said_by
from lorarar.toolchains import quiet_toolchains


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Convert a graph and save it as `path`. In fp16 the inputs and outputs are fp16 too, but for those it keeps."""
    with quiet_toolchains(), _counted_names():
        decisive = _decisive(graph.module) if precision in _WEIGHTS else frozenset()
        program = _program(graph, torch.float32 if precision == "fp32" else torch.float16)
        if precision in _WEIGHTS:
            _WEIGHTS[precision](program, decisive)
        program.save_asset(path)
    _same_input_same_bytes(path)


def _program(graph: Graph, dtype: torch.dtype) -> AIProgram:
    """Return the program of a graph; the graph's weights are freed before it is there a second time, to be saved."""
    exported = trace(graph, dtype)
    to_core_aten(exported)
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)  # the other mode writes this machine's paths down
    converter.register_torch_lowering("aten::matmul.default")(_product)
    converter.add_exported_program(exported, input_names=list(graph.inputs), output_names=list(graph.outputs))
    with redirect_stdout(io.StringIO()):  # it tells that it begins, and shows a bar where that is a terminal
        program = converter.to_coreai()
    converter.clear()
    del exported, converter
    graph.give_back()
    return program


def _product(values: Mapping[str, Any], node: Node, location: Any) -> Any:
    """Lower a product, of tensors of any dimensions."""
    del location  # the converter's context has it
    return ops.broadcasting_batch_matmul(*(values[str(argument)] for argument in node.args))


_LEAST_WEIGHTS = 2048  # smaller weights stay as they are: norms and biases, which decide much and save nothing
# So do the first and last layers and the embedding of time and size: all that is drawn goes through them, and they are
# a hundredth of the weights.
_DECISIVE = ("unet.conv_in.", "unet.conv_out.", "unet.time_embedding.", "unet.add_embedding.")
_Print = tuple[int, int]


def _print_of(weight: np.ndarray) -> _Print:
    """Return what tells a weight from others, transposed or not: constants of a program have no names."""
    half = np.ascontiguousarray(weight, np.float16)
    return half.size, int(half.view(np.uint16).sum(dtype=np.int64))


def _decisive(module: torch.nn.Module) -> frozenset[_Print]:
    parameters = module.named_parameters()
    return frozenset(
        _print_of(value.detach().half().numpy()) for name, value in parameters if name.startswith(_DECISIVE)
    )


def _eight_bits(program: AIProgram, decisive: Collection[_Print]) -> None:
    """Quantise weights to int8, with a scale for each output."""
    with _only(lambda weight: _print_of(weight) not in decisive):
        quantize_weights(program, DType.INT8, weight_num_threshold=_LEAST_WEIGHTS, in_place=True)


def _palettes(program: AIProgram, decisive: Collection[_Print], bits: int) -> None:
    """Replace weights by palettes, which have 6 bits for convolutions."""
    _compile_kmeans()
    for dimensions, number in ((2, bits), (4, 6)):

        def chosen(weight: np.ndarray, dimensions: int = dimensions) -> bool:
            return weight.ndim == dimensions and _print_of(weight) not in decisive

        with _only(chosen):
            palettize_weights(
                program,
                None,
                n_bits=number,
                weight_num_threshold=_LEAST_WEIGHTS,
                num_kmeans_workers=1,  # each would be a copy of this process
                enable_fast_kmeans_mode=False,  # it rounds weights to four decimals first
                in_place=True,
            )


def _compile_kmeans() -> None:
    """Let coreai-opt compile its k-means now: where it can't, it would leave every weight as it is without an error.

    It calls ninja, which pip puts beside Python and not always on the path.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        with patch.dict(os.environ, {"PATH": path}):
            kmeans.cluster([0.0, 1.0], 2)
    except (OSError, RuntimeError, ImportError) as error:
        raise InputError(
            f"w6 and w4 need a C++ compiler, since coreai-opt compiles its k-means ({said_by(error)}): install g++, or "
            "take w8"
        ) from None


_WEIGHTS: Mapping[str, Callable[[AIProgram, Collection[_Print]], None]] = {
    "w8": _eight_bits,
    "w6": partial(_palettes, bits=6),
    "w4": partial(_palettes, bits=4),
}


@contextmanager
def _only(chosen: Callable[[np.ndarray], bool]) -> Iterator[None]:
    """Let coreai-opt compress the weights that are chosen, of those that it would compress. It takes no names."""
    passes = weight_palettization, weight_quantization
    takes = weight_quantization._should_compress_op

    def should(op: Any, *about: Any) -> bool:
        return takes(op, *about) and chosen(weight_quantization._get_constant_value_as_np_array(op))

    with patch.object(passes[0], "_should_compress_op", should), patch.object(passes[1], "_should_compress_op", should):
        yield


@contextmanager
def _counted_names() -> Iterator[None]:
    """Count private functions, whose names would end in eight random letters."""
    numbers = itertools.count()
    with patch.object(graph_builder, "_randomize_fn_name", lambda name: f"{name}_{next(numbers):08d}"):
        yield


def _same_input_same_bytes(asset: Path) -> None:
    """Replace what Core AI draws by chance: constants' names, and with them the program's hash; and the date."""
    program, about = asset / "main.mlirb", asset / "metadata.json"
    number_constants(program)
    with program.open("rb") as file:
        (asset / "main.hash").write_bytes(hashlib.file_digest(file, "sha256").digest())
    facts = {key: value for key, value in json.loads(about.read_text()).items() if key != "creationDate"}
    about.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
