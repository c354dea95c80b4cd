"""Schedules: strengths that change from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from lorarar.errors import InputError
from lorarar.merging.types import check_strengths
from runtime_py.blend import ByStep

Schedule = ByStep | Sequence[Sequence[float]]
"""Strengths by step: a function, or a table whose rows are spread evenly over the steps."""


def checked_by_step(schedule: Schedule, loras: int) -> ByStep:
    """Return a schedule as a function that checks what it returns, and asks for each step once: an image is one.

    Raises InputError for a table that is empty, or that has a row of anything but a finite number for each LoRA.
    """
    if callable(schedule):
        return cache(lambda step, steps: _checked(schedule(step, steps), loras))
    rows = [_checked(row, loras) for row in (schedule if np.iterable(schedule) else ())]
    if not rows:
        raise InputError("`schedule` has no rows; give a row of strengths for each stretch of steps, or a function")
    return lambda step, steps: rows[step * len(rows) // steps]


def _checked(strengths: Sequence[float], loras: int) -> tuple[float, ...]:
    return check_strengths(strengths, loras, "`schedule` has")
