"""Time cases in turn, every one once a round so that a busy moment hits all alike, and measure the machine's limits."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from lorarar.settings import check_at_least, setting

SCHEMA_VERSION = 1
# Seconds between runs. Without them ExecuTorch took 48 ms instead of 29 beside ONNX Runtime's spinning threads
# (KOALA-700M, rank 16).
REST = 0.2
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h

FLOAT_BYTES = 4
SGEMM_SIZE = 2048  # of the product that is run among the other cases
# The share of its best rate that sgemm keeps among the other cases. Measured 0.9 and more on a quiet machine; another
# program on one of two cores slows small products 5 to 10 times (threads wait for each other), and no ratio holds then.
STEADY = 0.8
_SIZES = (1024, 2048, 3072)
_BANDWIDTH_FLOATS = 1 << 26  # 256 MB, larger than any cache

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


class Samples(NamedTuple):
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


def measure_cases(cases: Mapping[str, Case], rounds: int, progress: OnCase) -> tuple[Machine, dict[str, Samples]]:
    """Measure the machine, then run the cases in turn, with rests between them and a case `sgemm` among them."""
    progress("machine", 0, None)
    machine = measure_machine()
    return machine, interleave({**cases, "sgemm": sgemm_case()}, rounds, on_run=progress, rest=REST)


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


class Machine(NamedTuple):
    """What this machine can do at best, measured in the same run as everything else."""

    sgemm: float  # operations a second; a multiplication and an addition are two
    read_bandwidth: float  # bytes a second

    def record(self, sgemm: Samples) -> dict[str, Any]:
        """Return its limits for a document, and what share of its best rate sgemm kept among the other cases."""
        return {
            "steadiness": 2 * SGEMM_SIZE**3 / sgemm.median / self.sgemm,
            "machine": {"sgemm_gflops": self.sgemm / 1e9, "read_gb_per_s": self.read_bandwidth / 1e9},
        }


def measure_machine(rounds: int = 3) -> Machine:
    """Measure the best sgemm rate of several sizes, and the rate at which memory is read."""
    import torch

    data = torch.ones(_BANDWIDTH_FLOATS)
    with torch.inference_mode():
        samples = interleave({str(size): sgemm_case(size) for size in _SIZES}, rounds)
        read = interleave({"read": data.sum}, rounds)["read"]
    rate = max(2 * size**3 / samples[str(size)].best for size in _SIZES)
    return Machine(rate, _BANDWIDTH_FLOATS * FLOAT_BYTES / read.best)


def sgemm_case(size: int = SGEMM_SIZE) -> Case:
    """Return one square product; run among the other cases it also tells whether the machine was busy."""
    import torch

    square = torch.randn(size, size)
    out = torch.empty_like(square)
    return lambda: torch.mm(square, square, out=out)
