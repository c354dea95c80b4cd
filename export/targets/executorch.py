"""ExecuTorch: a .pte whose products run in XNNPACK, with fixed shapes.

w8 and w4 (ExecuTorch's 8da8w and 8da4w) hold the weights of linears in 8 bits for each output channel, or in 4 bits
for each group of inputs; activations are rounded to 8 bits as they come, token by token. Convolutions stay in float:
XNNPACK quantises those with measured ranges only, and no images to measure on can be had for every base.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.constant_prop_pass import constant_prop_pass
from torch import nn

from export.graph import Graph
from export.targets.trace import trace
from lorarar.cli import quiet_toolchains

FLOATS = {"fp32": torch.float32, "fp16": torch.float16}
GROUP = 32  # weights that share a scale in w4


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Lower and save. Inputs stay the caller's memory, so that an SDXL adapter is not copied once more; outputs are
    planned into the program's own, since the Android and iOS bindings have no way to bring memory for them.

    For w8 and w4 the graph's linears are compressed in place.
    """
    planning = MemoryPlanningPass(alloc_graph_input=False)
    with quiet_toolchains(), torch.no_grad(), _few_collections():
        if precision in FLOATS:
            # The slices of the input layers must be constants before XNNPACK looks for static weights.
            traced = constant_prop_pass(trace(graph, FLOATS[precision]))
        else:
            # Here that would make floats of the compressed weights again.
            _compress(graph.module, precision)
            traced = trace(graph, torch.float32)
        gc.collect()
        edge = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()])
        del traced
        gc.collect()
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    with path.open("wb") as file:
        program.write_to_file(file)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Leave Python's collector to the caller. Passes make millions of objects that live on, and walking those took a
    quarter of an export; collected between the steps, they hold no weights for long.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _compress(module: nn.Module, precision: str) -> None:
    """Linears that a LoRA is added to keep it beside them, in float."""
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, PerGroup, quantize_

    bits, granularity = {"w8": ("int8", PerAxis(0)), "w4": ("int4", PerGroup(GROUP))}[precision]
    config = Int8DynamicActivationIntxWeightConfig(getattr(torch, bits), granularity)

    def fits(layer: nn.Module, _: str) -> bool:
        return type(layer) is nn.Linear and (precision == "w8" or layer.in_features % GROUP == 0)

    quantize_(module.float(), config, fits)
