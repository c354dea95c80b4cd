"""The quick partitioner against ExecuTorch's own."""

from __future__ import annotations

from operator import getitem

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Graph, GraphModule, Node

from lorarar.toolchains import quiet_toolchains

with quiet_toolchains():
    from executorch.exir.backend.canonical_partitioners.pattern_op_partitioner import (
        generate_grouped_partitions_from_list_of_nodes,
    )

    from export.targets.xnnpack import merge_groups


@st.composite
def grouped_graphs(draw: st.DrawFn) -> tuple[Graph, list[list[Node]]]:
    """A graph in which a node may take any before it, and some nodes in groups."""
    graph = Graph()
    nodes: list[Node] = [graph.placeholder("x")]
    for _ in range(draw(st.integers(2, 14))):
        sources = draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3, unique=True))
        if draw(st.integers(0, 4)) == 0:
            nodes.append(graph.call_function(getitem, (sources[0], 0)))
        else:
            nodes.append(graph.call_function(torch.add, tuple(sources)))
    graph.output(tuple(nodes[-2:]))
    labels = draw(st.lists(st.integers(0, 6), min_size=len(nodes), max_size=len(nodes)))
    groups: dict[int, list[Node]] = {}
    for node, label in zip(nodes, labels, strict=True):
        if label:  # 0: of no group
            groups.setdefault(label, []).append(node)
    return graph, list(groups.values())


@settings(max_examples=400)
@given(grouped_graphs())
def test_the_same_partitions_as_executorchs(case: tuple[Graph, list[list[Node]]]) -> None:
    graph, groups = case
    theirs = generate_grouped_partitions_from_list_of_nodes(GraphModule(torch.nn.Module(), graph), groups)
    ours = merge_groups(graph, groups)
    assert {part.id: set(part.nodes) for part in ours} == {part.id: set(part.nodes) for part in theirs}
