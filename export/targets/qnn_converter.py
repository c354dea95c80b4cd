"""Convert graphs to QNN contexts: the ONNX graph in fp16, with every size fixed, compiled by Qualcomm's libraries."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import onnx

from export.graph import Graph
from export.targets import onnx_converter
from export.targets.target import Soc
from lorarar.errors import CutShort, InputError
from runtime_py.processes import end_of, start
from runtime_py.qnn_session import MODEL


def convert(graph: Graph, precision: str, path: Path, soc: Soc) -> None:
    """Convert a graph for the NPU of a Snapdragon, and save it as the folder `path`.

    Raises InputError where the compiler fails or does not take the whole graph, CutShort where a signal ends it.
    """
    fixed = replace(graph, inputs={name: graph.fixed(shape) for name, shape in graph.inputs.items()})
    with tempfile.TemporaryDirectory(prefix="lorarar-", dir=path.parent) as folder:
        model = Path(folder) / "graph"
        onnx_converter.convert(fixed, precision, model, one_file=-1)  # the compiler maps the weights
        graph.give_back()
        path.mkdir()
        source = model / onnx_converter.ONNX_MODEL
        _compile(graph.name, source, path, soc)
        version = onnx.load(source, load_external_data=False).ir_version
    context = onnx.load(path / MODEL, load_external_data=False)
    nodes = [node.op_type for node in context.graph.node]
    if nodes != ["EPContext"]:
        raise InputError(
            f"{graph.name}: QNN's compiler made {len(nodes)} pieces of it ({nodes[:5]}), where one must be"
        )
    # The compiler's ONNX Runtime writes its own newest version, which those of phones refuse.
    context.ir_version = version
    (path / MODEL).write_bytes(context.SerializeToString(deterministic=True))


def _compile(name: str, model: Path, out: Path, soc: Soc) -> None:
    process = start(
        "export.targets.qnn_compiler", model, out, str(soc.htp_arch), str(soc.model),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said, _ = process.communicate()
    except BaseException:  # as when the user stops it: a compiler that nobody waits for takes hours and gigabytes
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        error = InputError if process.returncode > 0 else CutShort  # a signal, as where memory runs out
        raise error(f"{name}: QNN's compiler fails for {soc.name} ({end_of(process, said)})")
