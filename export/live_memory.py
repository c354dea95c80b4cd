"""How much memory a network's tensors take that are alive together, from shapes alone: nothing is computed."""

from __future__ import annotations

import torch

from export.graph import Graph
from lorarar.live_bytes import LiveBytes


def live_bytes(graph: Graph, itemsize: int) -> int:
    """Return the most bytes that intermediate results take at one moment of a forward pass.

    The graph's module is moved to the meta device. `itemsize` is the bytes of a number. Weights and inputs are not
    counted, nor what a runtime's own kernels use beside their results.
    """
    given = {
        name: torch.empty(graph.fixed(shape), dtype=graph.dtypes.get(name), device="meta")
        for name, shape in graph.inputs.items()
    }
    module = graph.module.to("meta")
    with torch.no_grad(), LiveBytes(itemsize) as counted:
        module(**given)
    return counted.most()
