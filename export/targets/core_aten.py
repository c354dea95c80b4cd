"""Bring a traced program to the operations that Apple's converters take, without tracing it again.

`ExportedProgram.run_decompositions` traces the whole program a second time, which takes longer than the first (KOALA's
UNet: 26 s after 15), and makes up to three reshapes of every product. The networks that are exported here need these
few rules instead. A product stays one operation, `aten.matmul`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

aten = torch.ops.aten


def to_core_aten(program: ExportedProgram) -> None:
    """Rewrite the operations of a program, in place; those that there is no rule for stay."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        rule = _RULES.get(node.target) if node.op == "call_function" else None
        if rule is not None:
            with graph.inserting_before(node):
                made = rule(node)
            node.replace_all_uses_with(made, propagate_meta=False)
            program.graph_signature.replace_all_uses(node.name, made.name)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def _call(node: Node, target: Any, *args: Any, value: Any = None) -> Node:
    """Add an operation before `node`, whose result is a tensor like `value` (default: like that of `node`)."""
    made = node.graph.call_function(target, args)
    made.meta = node.meta | {"val": node.meta["val"] if value is None else value}
    return made


def _argument(node: Node, place: int, name: str = "", default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _same(node: Node) -> Any:
    """Return the input of what does nothing here: dropout outside of training, and an order in memory."""
    return node.args[0]


def _to(node: Node) -> Any:
    (given,) = node.all_input_nodes
    if node.meta["val"].dtype == given.meta["val"].dtype:
        return given
    made = _call(node, aten._to_copy.default, given)
    made.kwargs = {"dtype": node.meta["val"].dtype}
    return made


def _view(node: Node) -> Node:
    return _call(node, aten.view.default, node.args[0], list(node.meta["val"].shape))


def _transpose(node: Node) -> Node:
    order = list(range(node.meta["val"].dim()))
    first, second = _argument(node, 1), _argument(node, 2)
    order[first], order[second] = order[second], order[first]
    return _call(node, aten.permute.default, node.args[0], order)


def _split(node: Node) -> Node:
    """Replace chunks by their number or size with chunks by their sizes."""
    dim = _argument(node, 2, "dim", 0)
    sizes = [part.shape[dim] for part in node.meta["val"]]
    return _call(node, aten.split_with_sizes.default, node.args[0], sizes, dim)


def _cat(node: Node) -> Node:
    return _call(node, aten.cat.default, *node.args)


def _softmax(node: Node) -> Node:
    return _call(node, aten._softmax.default, node.args[0], node.args[1], False)


def _linear(node: Node) -> Node:
    x, weight, bias = _argument(node, 0), _argument(node, 1), _argument(node, 2, "bias")
    turned = _call(node, aten.permute.default, weight, [1, 0], value=weight.meta["val"].t())
    product = _call(node, aten.matmul.default, x, turned)
    return product if bias is None else _call(node, aten.add.Tensor, product, bias)


def _conv2d(node: Node) -> Node:
    bias, groups, none = _argument(node, 2, "bias"), _argument(node, 6, "groups", 1), [0, 0]
    stride, padding = _argument(node, 3, "stride", [1, 1]), _argument(node, 4, "padding", none)
    dilation = _argument(node, 5, "dilation", [1, 1])
    given = node.args[0], node.args[1], bias, stride, padding, dilation, False, none, groups
    return _call(node, aten.convolution.default, *given)


def _first(node: Node, target: Any, *args: Any) -> Node:
    """Add a norm, of whose three results the first is used."""
    norm = node.graph.call_function(target, args)
    norm.meta = node.meta | {"val": (node.meta["val"], None, None)}
    return _call(node, operator.getitem, norm, 0)


def _layer_norm(node: Node) -> Node:
    weight, bias, eps = _argument(node, 2, "weight"), _argument(node, 3, "bias"), _argument(node, 4, "eps", 1e-5)
    return _first(node, aten.native_layer_norm.default, node.args[0], node.args[1], weight, bias, eps)


def _group_norm(node: Node) -> Node:
    weight, bias, eps = _argument(node, 2, "weight"), _argument(node, 3, "bias"), _argument(node, 4, "eps", 1e-5)
    batch, channels, *sides = node.meta["val"].shape
    sizes = batch, channels, torch.Size(sides).numel()
    return _first(node, aten.native_group_norm.default, node.args[0], weight, bias, *sizes, node.args[1], eps)


def _arange(node: Node) -> Node:
    start, end = node.args if len(node.args) == 2 else (0, *node.args)
    return _call(node, aten.arange.start_step, start, end, 1)


def _pad(node: Node) -> Node:
    """Replace a padding with a number; there is no other here."""
    value = _argument(node, 3, "value")
    return _call(node, aten.constant_pad_nd.default, node.args[0], node.args[1], 0.0 if value is None else value)


_RULES: Mapping[Any, Callable[[Node], Any]] = {
    aten.dropout.default: _same,
    aten.contiguous.default: _same,
    aten.to.dtype: _to,
    aten.flatten.using_ints: _view,
    aten.reshape.default: _view,
    aten.unflatten.int: _view,
    aten.transpose.int: _transpose,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.concat.default: _cat,
    aten.softmax.int: _softmax,
    aten.linear.default: _linear,
    aten.conv2d.default: _conv2d,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.arange.default: _arange,
    aten.arange.start: _arange,
    aten.pad.default: _pad,
}
