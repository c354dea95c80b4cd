"""The hypernetwork: a stack of LoRAs in, unit coefficients out."""

from __future__ import annotations

from export.graph import Graph, golden_roles
from lorarar.hypernet.checkpoints import Predictor
from lorarar.hypernet.graph import coefficient_graph
from lorarar.layout import ROLES, Layout, StackSize, adapter_shapes, coefficient_shapes, roles_shape


def hypernet_graph(predictor: Predictor, layout: Layout, size: StackSize, form: str) -> Graph:
    """Make the graph of a hypernetwork, or of constant coefficients, for stacks of LoRAs of a layout.

    `form` is a key of `lorarar.hypernet.graph.FORMS`: the one that the target's runtime computes fastest.
    """
    module = coefficient_graph(predictor, layout, size.loras, form)
    inputs = roles_shape(size.loras) | adapter_shapes(module.groups)
    reference = coefficient_graph(predictor, layout, size.loras)
    outputs = coefficient_shapes(module.groups, size.loras)
    golden = {ROLES: golden_roles(size)}
    return Graph("hypernet", module, inputs, outputs, size.named, golden=golden, reference=reference)
