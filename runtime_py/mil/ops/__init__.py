"""The operations: MIL name → a pure function whose parameters are the MIL inputs, with the defaults of the spec.

Operands arrive as arrays (strings as str). Operations that compute get float16 operands widened to float32 and never
see a float16; those in `MOVES` only rearrange values, so they take any type as it is stored.
Spec: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runtime_py.mil.ops import constexpr, elementwise, linear, normalization, reduction, resize, tensor


@dataclass(frozen=True)
class Op:
    """One operation of the table."""

    function: Callable[..., Any]
    widens: bool

    @cached_property
    def _signature(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Every input it knows."""
        return frozenset(self._signature)

    @cached_property
    def required(self) -> frozenset[str]:
        """The inputs it cannot do without."""
        return frozenset(name for name, given in self._signature.items() if given.default is inspect.Parameter.empty)

    @property
    def lists(self) -> frozenset[str]:
        """The inputs that are a list of tensors (concat, stack and einsum call theirs `values`)."""
        return self.parameters & {"values"}


COMPUTES: dict[str, Callable[..., Any]] = {
    **elementwise.TABLE,
    **linear.TABLE,
    **normalization.TABLE,
    **reduction.TABLE,
    **resize.TABLE,
    **constexpr.TABLE,
}
MOVES: dict[str, Callable[..., Any]] = tensor.TABLE
OPS: dict[str, Op] = {
    **{name: Op(function, widens=True) for name, function in COMPUTES.items()},
    **{name: Op(function, widens=False) for name, function in MOVES.items()},
}
