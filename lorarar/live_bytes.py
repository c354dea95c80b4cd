"""Count how much memory tensors take that are alive together, also of those without numbers (fake, or on meta)."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside and are still alive.

    What was there before is not counted, nor a view of it. `itemsize`, the bytes of a number, takes the place of each
    tensor's own.
    """

    def __init__(self, itemsize: int | None = None) -> None:
        super().__init__()
        self.itemsize = itemsize
        self.live = self._start = self._peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def begin(self) -> None:
        """Begin a moment, whose most is asked for later; the first begins by itself."""
        self._start = self._peak = self.live

    def most(self) -> int:
        """Return the most bytes of the moment, beyond those that were alive when it began."""
        return self._peak - self._start

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it makes."""
        del types
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._seen.add(tensor.untyped_storage())  # a weight or an input, where no operation made it
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                size = storage.nbytes() // tensor.element_size() * (self.itemsize or tensor.element_size())
                self._change(size)
                weakref.finalize(storage, self._change, -size)
        return made

    def _change(self, size: int) -> None:
        self.live += size
        self._peak = max(self._peak, self.live)
