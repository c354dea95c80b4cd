"""Convert graphs to ExecuTorch: a .pte whose products run in XNNPACK, with fixed shapes.

w8 and w4 (ExecuTorch's 8da8w and 8da4w) hold the weights of linears in 8 bits for each output channel, or in 4 bits
for each group of inputs; activations are rounded to 8 bits as they come, token by token. Convolutions stay in float:
XNNPACK quantises those with measured ranges only, and no images to measure on can be had for every base.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch import nn
from torch.fx import GraphModule
from torch.fx.traceback import NodeSource

from export.graph import Graph
from export.targets.executorch_weights import constants_in_files, shared_by_copies
from export.targets.trace import trace
from export.targets.xnnpack import QuickXnnpackPartitioner
from lorarar.toolchains import quiet_toolchains

FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
GROUP = 32  # weights that share a scale in w4
GROWTH = 256 * 2**20  # bytes of memory after which garbage is collected
LOOK_S = 0.2  # seconds between looks at it


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Lower a graph to XNNPACK and save it as `path`. For w8 and w4 the linears of its module are compressed in place.

    Inputs stay the caller's memory, so that an SDXL adapter is not copied once more. Outputs are planned into the
    program's own, since the Android and iOS bindings have no way to bring memory for them.
    """
    planning = MemoryPlanningPass(alloc_graph_input=False)
    with quiet_toolchains(), torch.no_grad(), _few_collections(), _code_when_called(), _shared_provenance():
        if precision in FLOATS:
            # The slices of the input layers must be constants before XNNPACK looks for static weights.
            traced = constant_prop_pass(trace(graph, FLOATS[precision]))
        else:
            # That pass would make floats of the compressed weights again.
            _compress(graph.module, precision)
            traced = trace(graph, torch.float32)
        with shared_by_copies(), constants_in_files(path):
            gc.collect()
            edge = to_edge_transform_and_lower(traced, partitioner=[QuickXnnpackPartitioner()])
            del traced
            gc.collect()
            program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
            with path.open("wb") as file:
                program.write_to_file(file)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Collect garbage only when memory has grown.

    Passes make millions of objects that live on, and walking those took a quarter of an export. Never to walk them
    would leave whole copies of the weights in cycles.
    """
    process, done, enabled = psutil.Process(), threading.Event(), gc.isenabled()

    def collect() -> None:
        least = process.memory_info().rss
        while not done.wait(LOOK_S):
            if process.memory_info().rss > least + GROWTH:
                gc.collect()
                least = process.memory_info().rss
            least = min(least, process.memory_info().rss)

    watcher = threading.Thread(target=collect)
    gc.disable()
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        if enabled:
            gc.enable()


@contextmanager
def _code_when_called() -> Iterator[None]:
    """Let graphs be compiled to Python when they are called.

    Each pass changes a graph and calls none. To compile all of them anew took a fifth of an export.
    """
    compile_now = GraphModule.recompile

    def recompile(self: GraphModule) -> None:
        def forward(module: GraphModule, *args: object, **kwargs: object) -> object:
            compile_now(module)  # puts the compiled function in place of this one
            return module(*args, **kwargs)

        type(self).forward = forward  # a graph's class is its own
        self._code = "# compiled when it is called"  # shown when the graph is printed
        if shape := getattr(self.graph._codegen, "pytree_info", None):  # of inputs and outputs; read without a call
            self._in_spec, self._out_spec = shape.in_spec, shape.out_spec

    GraphModule.recompile = recompile  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        GraphModule.recompile = compile_now  # type: ignore[method-assign]


@contextmanager
def _shared_provenance() -> Iterator[None]:
    """Let copies of a node share the account of the nodes that it was made from, which nothing changes.

    Each pass gives each node a copy of all that it went through. That took a tenth of an export.
    """
    NodeSource.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]


def _compress(module: nn.Module, precision: str) -> None:
    """Compress the weights of a module's linears in place; adapters beside them stay in float."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, PerGroup, quantize_

    bits, granularity = {"w8": ("int8", PerAxis(0)), "w4": ("int4", PerGroup(GROUP))}[precision]
    config = Int8DynamicActivationIntxWeightConfig(getattr(torch, bits), granularity)

    def fits(layer: nn.Module, _: str) -> bool:
        return type(layer) is nn.Linear and (precision == "w8" or layer.in_features % GROUP == 0)

    quantize_(module.float(), config, fits)
