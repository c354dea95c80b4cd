"""Interleaved timing: every case once a round, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Samples:
    """Seconds of every round of one case."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, as an app's memory pool does. False where the C library is not glibc.

    glibc hands large blocks back to the kernel, so PyTorch takes a merge's 743 MB (SDXL, rank 64) anew every time:
    1100 ms between other cases, against 210. The dense form is hit too (4.0 s against 2.1), ONNX Runtime is not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def interleave(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    on_run: Callable[[str], None] = lambda _: None,
    rest: float = 0.0,
) -> dict[str, Samples]:
    """Run every case once unmeasured and then once a round, in turn. `on_run(name)` is called before each run.

    `rest` is the pause in seconds before each run: the threads of the runtime before it spin on for a while.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, case in cases.items():
            on_run(name)
            time.sleep(rest)
            start = clock()
            result = case()
            stop = clock()
            # Freed outside the measured time; an artifact's outputs must be gone before its next run.
            del result
            if turn:
                seconds[name].append(stop - start)
    return {name: Samples(tuple(values)) for name, values in seconds.items()}
