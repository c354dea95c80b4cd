"""ExecuTorch: a .pte whose products run in XNNPACK, with fixed shapes.

w8 and w4 (ExecuTorch's 8da8w and 8da4w) hold the weights of linears in 8 bits for each output channel, or in 4 bits
for each group of inputs; activations are rounded to 8 bits as they come, token by token. Convolutions stay in float:
XNNPACK quantises those with measured ranges only, and no images to measure on can be had for every base.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import psutil
import torch
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from export.graph import Graph
from export.targets.trace import trace
from export.targets.xnnpack import QuickXnnpackPartitioner
from lorarar.toolchains import quiet_toolchains

FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
GROUP = 32  # weights that share a scale in w4
GROWTH = 256 * 2**20  # bytes of memory after which garbage is collected
LOOK_S = 0.2  # seconds between looks at it


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Lower and save. Inputs stay the caller's memory, so that an SDXL adapter is not copied once more; outputs are
    planned into the program's own, since the Android and iOS bindings have no way to bring memory for them.

    For w8 and w4 the graph's linears are compressed in place.
    """
    planning = MemoryPlanningPass(alloc_graph_input=False)
    with quiet_toolchains(), torch.no_grad(), _few_collections(), _code_when_called():
        if precision in FLOATS:
            # The slices of the input layers must be constants before XNNPACK looks for static weights.
            traced = constant_prop_pass(trace(graph, FLOATS[precision]))
        else:
            # Here that would make floats of the compressed weights again.
            _compress(graph.module, precision)
            traced = trace(graph, torch.float32)
        _share_weights(traced)
        gc.collect()
        edge = to_edge_transform_and_lower(traced, partitioner=[QuickXnnpackPartitioner()])
        del traced
        gc.collect()
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    with path.open("wb") as file:
        program.write_to_file(file)


def _share_weights(program: ExportedProgram) -> None:
    """Lowering deep-copies the program and writes to no weight: let copies share them (KOALA-700M in fp32: 3 GB)."""
    for value in [*program.state_dict.values(), *program.constants.values()]:
        if isinstance(value, torch.Tensor):
            value.__deepcopy__ = partial(_itself, value)  # type: ignore[method-assign]


def _itself(value: torch.Tensor, memo: object) -> torch.Tensor:
    return value


@contextmanager
def _few_collections() -> Iterator[None]:
    """Collect garbage only when memory has grown. Passes make millions of objects that live on, and walking those took
    a quarter of an export; never to walk them leaves whole copies of the weights in cycles.
    """
    process, done = psutil.Process(), threading.Event()

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
        gc.enable()


@contextmanager
def _code_when_called() -> Iterator[None]:
    """Let graphs be compiled to Python when they are called. Each pass changes one and calls none, and to compile all
    of them anew took a fifth of an export.
    """
    compile_now = GraphModule.recompile

    def recompile(self: GraphModule) -> None:
        def forward(module: GraphModule, *args: object, **kwargs: object) -> object:
            compile_now(module)  # puts the compiled function in place of this one
            return module(*args, **kwargs)

        type(self).forward = forward  # a graph's class is its own
        self._code = "# compiled when it is called"  # for who prints it
        if shape := getattr(self.graph._codegen, "pytree_info", None):  # of inputs and outputs; read without a call
            self._in_spec, self._out_spec = shape.in_spec, shape.out_spec

    with patch.object(GraphModule, "recompile", recompile):
        yield


def _compress(module: nn.Module, precision: str) -> None:
    """Linears that a LoRA is added to keep it beside them, in float."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, PerGroup, quantize_

    bits, granularity = {"w8": ("int8", PerAxis(0)), "w4": ("int4", PerGroup(GROUP))}[precision]
    config = Int8DynamicActivationIntxWeightConfig(getattr(torch, bits), granularity)

    def fits(layer: nn.Module, _: str) -> bool:
        return type(layer) is nn.Linear and (precision == "w8" or layer.in_features % GROUP == 0)

    quantize_(module.float(), config, fits)
