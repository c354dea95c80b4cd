"""ExecuTorch: a .pte whose products run in XNNPACK, with fixed shapes."""

from __future__ import annotations

from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.passes.constant_prop_pass import constant_prop_pass

from export.graph import Graph
from export.targets.trace import trace
from lorarar.cli import quiet_toolchains


def convert(graph: Graph, precision: str, path: Path) -> None:
    """Lower and save. Inputs stay the caller's memory, so that an SDXL adapter is not copied once more; outputs are
    planned into the program's own, since the Android and iOS bindings have no way to bring memory for them.
    """
    assert precision == "fp32", "the tolerance table offers no other"
    planning = MemoryPlanningPass(alloc_graph_input=False)
    with quiet_toolchains(), torch.no_grad():
        # The slices of the input layers must be constants before XNNPACK looks for static weights.
        traced = constant_prop_pass(trace(graph, torch.float32))
        edge = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()])
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    with path.open("wb") as file:
        program.write_to_file(file)
