"""Loops, branches and states (MIL's control_flow and states)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Blocks = Sequence[Callable[..., tuple[Any, ...]]]
MOST_ROUNDS = 1_000_000  # of a loop, which is a minute or more: the loop of a damaged program may never end


@dataclass
class State:
    """A tensor that stays from one run to the next."""

    array: Array


def while_loop(loop_vars: list[Any], blocks: Blocks) -> tuple[Any, ...]:
    """Run the body on the variables while the condition holds. Raises ValueError where it seems to hold for ever."""
    condition, body = blocks
    values = tuple(loop_vars)
    for _ in range(MOST_ROUNDS):
        if not condition(*values)[0]:
            return values
        values = body(*values)
    raise ValueError(f"its condition still holds after {MOST_ROUNDS:,} rounds")


def cond(pred: Array, blocks: Blocks) -> tuple[Any, ...]:
    """Run the first block where the predicate holds, and else the second."""
    return blocks[0 if pred else 1]()


def read_state(input: State) -> Array:
    """Return what a state holds."""
    return input.array


def write_state(input: State, data: Array) -> tuple[()]:
    """Put a tensor into a state."""
    if data.shape != input.array.shape:
        raise ValueError(f"its data has shape {list(data.shape)}, and the state {list(input.array.shape)}")
    input.array = data
    return ()
