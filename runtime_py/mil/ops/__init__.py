"""The operations: MIL name → a pure function whose parameters are the MIL inputs, with the defaults of the spec.

A module's public functions are operations of their own names; its TABLE has those that are a formula or numpy's own.
Operands arrive as arrays (strings as str). Operations that compute get float16 operands widened to float32 and never
see a float16; those of `tensor` and `lists` only rearrange values, so they take any type as it is stored. Those
of `control` get functions that run their blocks.
Spec: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

from runtime_py.mil.ops import (
    constexpr,
    control,
    elementwise,
    linear,
    lists,
    normalization,
    pool,
    quantization,
    random,
    recurrent,
    reduction,
    resize,
    sampling,
    scatter,
    sorting,
    tensor,
)

MODULES = (
    *(constexpr, control, elementwise, linear, lists, normalization, pool, quantization, random, recurrent),
    *(reduction, resize, sampling, scatter, sorting, tensor),
)
BLOCKS = "blocks"
"""The parameter that is no input: the functions that run an operation's blocks."""
AS_STORED = (control, lists, tensor)
"""Modules whose operations only move values, whatever their type."""


@dataclass(frozen=True)
class Op:
    """One operation of the table."""

    function: Callable[..., Any]
    widens: bool

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Every input it knows."""
        return {name: given for name, given in self._signature.items() if name != BLOCKS}

    @property
    def has_blocks(self) -> bool:
        """Whether it runs blocks of steps."""
        return BLOCKS in self._signature

    @cached_property
    def _signature(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    @cached_property
    def lists(self) -> frozenset[str]:
        """The inputs that are several values."""
        return frozenset(name for name, given in self.parameters.items() if str(given.annotation).startswith("list["))

    @property
    def required(self) -> set[str]:
        """The inputs it cannot do without."""
        return {name for name, given in self.parameters.items() if given.default is inspect.Parameter.empty}


def _operations(module: ModuleType) -> dict[str, Callable[..., Any]]:
    public = {name: value for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"}
    own = {name: value for name, value in public.items() if value.__module__ == module.__name__}
    return own | getattr(module, "TABLE", {})


OPS: dict[str, Op] = {
    name: Op(function, module not in AS_STORED) for module in MODULES for name, function in _operations(module).items()
}
