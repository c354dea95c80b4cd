"""What of a graph XNNPACK takes, found quickly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem

from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.fx.passes.infra.partitioner import Partition


class QuickXnnpackPartitioner(XnnpackPartitioner):
    """ExecuTorch's partitioner, with the same partitions in a thousandth of the time.

    ExecuTorch walks both partitions and all that depends on them for every pair: two minutes of KOALA-700M's export
    with quantised linears, and gigabytes of sets.
    """

    def generate_partitions(self, ep: ExportedProgram) -> list[Partition]:
        return merge_groups(ep.graph_module.graph, self.get_matched_nodes_from_configs(ep))


@dataclass(frozen=True)
class _Part:
    """Sets of nodes as the bits of numbers: a partition's own, and all that comes after or before one of them."""

    number: int
    own: int
    after: int
    before: int

    def merged(self, other: _Part) -> _Part:
        return _Part(self.number, self.own | other.own, self.after | other.after, self.before | other.before)

    @property
    def is_cyclic(self) -> bool:
        """Whether a path leaves the partition and comes back: it could not run in one piece."""
        return bool(self.after & self.before & ~self.own)


def merge_groups(graph: Graph, groups: Sequence[Sequence[Node]]) -> list[Partition]:
    """Groups of nodes, no node in two, merged in pairs where no cycle comes of it: each with all that it can take, the
    group of the last node first. That is the order of ExecuTorch's GroupBasedPartitioner, which a test compares.
    """
    nodes = list(graph.nodes)
    waiting = _in_order(nodes, groups)
    found: list[_Part] = []
    while waiting:
        part, *others = waiting
        waiting = []
        for other in others:
            both = part.merged(other)
            if both.is_cyclic:
                waiting.append(other)
            else:
                part = both
        found.append(part)
    return _partitions(nodes, found)


def _in_order(nodes: Sequence[Node], groups: Sequence[Sequence[Node]]) -> list[_Part]:
    """A part of each group, that of the last node first."""
    place = {node: number for number, node in enumerate(nodes)}
    after, before = [0] * len(nodes), [0] * len(nodes)
    for number in reversed(range(len(nodes))):
        for user in nodes[number].users:
            after[number] |= 1 << place[user] | after[place[user]]
    for number, node in enumerate(nodes):
        for source in node.all_input_nodes:
            before[number] |= 1 << place[source] | before[place[source]]
    parts = []
    for order, group in enumerate(sorted(groups, key=lambda group: -max(place[node] for node in group))):
        part = _Part(order, 0, 0, 0)
        for number in (place[node] for node in group):
            part = part.merged(_Part(order, 1 << number, after[number], before[number]))
        parts.append(part)
    return parts


def _partitions(nodes: Sequence[Node], parts: Sequence[_Part]) -> list[Partition]:
    """What takes the outputs of a node of several apart goes to that node."""
    home = {
        node: part.number
        for part in parts
        for node, bit in zip(nodes, reversed(f"{part.own:b}"), strict=False)
        if bit == "1"
    }
    home |= {
        user: home[node]
        for node in nodes
        if node in home and all(user.target is getitem for user in node.users)
        for user in node.users
        if user in home
    }
    members: dict[int, list[Node]] = {part.number: [] for part in parts}
    for node in nodes:
        if node in home:
            members[home[node]].append(node)
    return [Partition(id=number, nodes=inside) for number, inside in members.items() if inside]
