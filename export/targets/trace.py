"""Trace a graph with `torch.export`: inputs and outputs have places, in the manifest's order, and no names."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from export.graph import Graph
from lorarar.hypernet.network import Hypernetwork
from lorarar.toolchains import quiet_toolchains


class _Positional(torch.nn.Module):
    """A graph's module with inputs and outputs by position."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.module = graph.module
        self.inputs, self.outputs = tuple(graph.inputs), tuple(graph.outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.module(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(outputs[name] for name in self.outputs)


def has_hypernetwork(module: torch.nn.Module) -> bool:
    """Tell whether a module computes coefficients with a hypernetwork, which stays in fp32."""
    return any(isinstance(part, Hypernetwork) for part in module.modules())


def trace(graph: Graph, dtype: torch.dtype) -> ExportedProgram:
    """Trace the graph's module, turned into `dtype` in place, with sizes that have names at the values that they have.

    A hypernetwork stays in fp32. Runtimes that also add up in fp16 (ONNX Runtime on Arm cores with half precision) lose
    3e-3 of a coefficient in its sums of up to 1280 products.
    """
    module = _Positional(graph).to(dtype).eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, Hypernetwork):
            part.float()
    # Memory that is never touched, so that the inputs of a full-size trace cost none.
    example = tuple(
        torch.empty(graph.fixed(shape), dtype=graph.dtypes.get(name, dtype)) for name, shape in graph.inputs.items()
    )
    with torch.no_grad(), quiet_toolchains():
        return torch.export.export(module, example)
