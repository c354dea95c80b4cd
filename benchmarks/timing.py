"""Time cases in turn: every case once a round, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from lorarar.settings import check_at_least, setting

SCHEMA_VERSION = 1
# Seconds between runs. Without them ExecuTorch took 48 ms instead of 29 beside ONNX Runtime's spinning threads
# (KOALA-700M, rank 16).
REST = 0.2
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h

Case = Callable[[], object]
"""One run of what is timed. What it returns is freed outside the measured time."""
OnCase = Callable[[str, int, int | None], None]
"""Called with what is done now, how many runs are over, and how many there will be, where that is known."""


@dataclass(frozen=True)
class RunSettings:
    """How often the cases are run, and on how many threads."""

    runs: int = setting(5, "measured runs of every case", metavar="N")
    threads: int = setting(2, "threads of every runtime", metavar="N")

    def __post_init__(self) -> None:
        """Raise InputError for less than one of either."""
        check_at_least(1, runs=self.runs, threads=self.threads)


@dataclass(frozen=True)
class Samples:
    """The seconds of every measured run of one case."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, as an app's memory pool does. False where the C library is not glibc.

    glibc hands large blocks back to the kernel, so that PyTorch takes a merge's 743 MB (SDXL, rank 64) anew every time:
    1100 ms between other cases, against 210. The dense form is hit too (4.0 s against 2.1), ONNX Runtime is not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def interleave(
    cases: Mapping[str, Case],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    on_run: OnCase = lambda name, done, total: None,
    rest: float = 0.0,
) -> dict[str, Samples]:
    """Run every case once unmeasured and then once a round, in turn; `on_run` is called before each run.

    `rest` is the pause in seconds before each run: the threads of the runtime before it go on spinning for a while.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    total = len(cases) * (rounds + 1)
    for turn in range(rounds + 1):
        for place, (name, case) in enumerate(cases.items()):
            on_run(name, turn * len(cases) + place, total)
            time.sleep(rest)
            start = clock()
            result = case()
            stop = clock()
            # Freed outside the measured time; an artifact's outputs must be gone before its next run.
            del result
            if turn:
                seconds[name].append(stop - start)
    return {name: Samples(tuple(values)) for name, values in seconds.items()}


def document_head(benchmark: str, base: str, settings: RunSettings) -> dict[str, Any]:
    """Return a document's first entries: what was run, how, on what."""
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": benchmark,
        "base": base,
        "threads": settings.threads,
        "rounds": settings.runs,
        "host": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
    }


def case_times(name: str, samples: Samples) -> dict[str, Any]:
    """Return the first entries of a case in a document."""
    return {"name": name, "median_s": samples.median, "best_s": samples.best, "seconds": list(samples.seconds)}
