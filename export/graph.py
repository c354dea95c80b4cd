"""What is exported: a module with named inputs and outputs. How is the targets' affair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from lorarar.hypernet import Hypernetwork
from lorarar.layout import ROLES, Layout, input_names, output_names
from lorarar.merger import Merger

Shape = tuple[int | str, ...]
"""Sizes; a name (`content_rank`) is a size that may differ from run to run where the target allows it."""


# Runtimes schedule a product over a whole group at least as well as an unrolled loop over parts of it, whose graph is
# eleven times as long (SDXL: 656 nodes against 60, and 16 s to export).
_WHOLE_GROUP = 1 << 30
# With its weights on the right, XNNPACK takes the merger as one delegate (KOALA-700M, rank 64: 77 ms); with them on the
# left 12 `expand_copy` stay with the portable kernels (148 ms).
_TRANSPOSED = ("executorch",)


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
        return tuple(self.sizes[size] if isinstance(size, str) else size for size in shape)

    def example(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Inputs to trace with. Their memory is never touched, so that a full-size trace costs none."""
        return {name: torch.empty(self.fixed(shape), dtype=dtype) for name, shape in self.inputs.items()}


def merger_graph(hypernet: Hypernetwork, layout: Layout, target: str, rank: int) -> Graph:
    """The merger's graph in the form that the target's runtime computes fastest, by the contract of the manifest.

    Scales have shape (1,): Core ML has no scalars.
    """
    merger = Merger(hypernet, layout, at_once=_WHOLE_GROUP, transposed=target in _TRANSPOSED)
    inputs: dict[str, Shape] = {}
    outputs: dict[str, Shape] = {}
    for group in merger.layout.groups:
        count, inp, out = len(group.modules), group.in_features, group.out_features
        for role in ROLES:
            inputs[f"{role}_{group.down}"] = (count, f"{role}_rank", inp)
            inputs[f"{role}_{group.up}"] = (count, out, f"{role}_rank")
        outputs[f"adapter_{group.down}"] = (count, "merged_rank", inp)
        outputs[f"adapter_{group.up}"] = (count, out, "merged_rank")
        if group.part == "qo":
            outputs[f"coefficients_{group.name}"] = (count, 2, inp)
    sizes = {"content_rank": rank, "style_rank": rank, "merged_rank": 2 * rank}
    return Graph(
        "merger",
        merger,
        {name: inputs.get(name, (1,)) for name in input_names(merger.layout)},
        {name: outputs[name] for name in output_names(merger.layout)},
        sizes,
    )
