"""What is exported: a module with named inputs and outputs. How is the targets' affair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorarar.hypernet import Hypernetwork
from lorarar.layout import Layout, Shape, fixed, input_shapes, output_shapes, rank_sizes
from lorarar.merger import Merger

# Runtimes schedule a product over a whole group at least as well as an unrolled loop over parts of it, whose graph is
# eleven times as long (SDXL: 656 nodes against 60, and 16 s to export).
_WHOLE_GROUP = 1 << 30
# XNNPACK takes the transposed form as one delegate (KOALA-700M, rank 64: 77 ms); in the plain one 12 `expand_copy` stay
# with the portable kernels (148 ms).
_FORMS = {"onnx": "stacked", "coreml": "plain", "executorch": "transposed"}


@dataclass(frozen=True)
class Graph:
    """A module whose forward takes these inputs as keywords and returns a dict with these outputs, in this order."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    sizes: Mapping[str, int]  # the value of every named size, where it has to be fixed

    def fixed(self, shape: Shape) -> tuple[int, ...]:
        """The shape with names replaced by `sizes`."""
        return fixed(shape, self.sizes)

    def example(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Inputs to trace with. Their memory is never touched, so that a full-size trace costs none."""
        return {name: torch.empty(self.fixed(shape), dtype=dtype) for name, shape in self.inputs.items()}


def merger_graph(hypernet: Hypernetwork, layout: Layout, target: str, rank: int) -> Graph:
    """The merger's graph in the form that the target's runtime computes fastest."""
    merger = Merger(hypernet, layout, at_once=_WHOLE_GROUP, form=_FORMS[target])
    return Graph("merger", merger, input_shapes(layout), output_shapes(layout), rank_sizes(rank))
