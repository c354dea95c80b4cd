"""The hypernetwork with the exact merge: two LoRAs' adapters in, the merged adapter and its coefficients out."""

from __future__ import annotations

from export.graph import Graph
from lorarar.hypernet.graph import Merger
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import Layout, input_shapes, output_shapes, rank_sizes

# Runtimes schedule a product over a whole group at least as well as an unrolled loop over parts of it, whose graph is
# eleven times as long (SDXL: 656 nodes against 60, and 16 s to export).
_WHOLE_GROUP = 1 << 30


def hypernet_graph(hypernet: Hypernetwork, layout: Layout, rank: int, form: str) -> Graph:
    """Make the graph of a hypernetwork for the LoRAs of a layout.

    `form` is a key of `lorarar.hypernet.network.FORMS`: the one that the target's runtime computes fastest.
    """
    merger = Merger(hypernet, layout, at_once=_WHOLE_GROUP, form=form)
    shapes = input_shapes(layout), output_shapes(layout)
    return Graph("merger", merger, *shapes, rank_sizes(rank), reference=Merger(hypernet, layout))
