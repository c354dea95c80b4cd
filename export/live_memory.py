"""How much memory a network's tensors take that are alive together, from shapes alone: nothing is computed."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from export.graph import Graph


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
    with torch.no_grad(), _Counting(itemsize) as counting:
        module(**given)
    return counting.most


class _Counting(TorchDispatchMode):
    """Adds up the storages that operations make, and takes each off when it is freed."""

    def __init__(self, itemsize: int) -> None:
        super().__init__()
        self.itemsize, self.alive, self.most = itemsize, 0, 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self.known.add(tensor.untyped_storage())  # a weight or an input, where no operation made it
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                size = storage.nbytes() // tensor.element_size() * self.itemsize
                self._change(size)
                weakref.finalize(storage, self._change, -size)
        return made

    def _change(self, size: int) -> None:
        self.alive += size
        self.most = max(self.most, self.alive)
