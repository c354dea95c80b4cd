"""Measure what this machine can do at best, and tell whether it was busy meanwhile. Needs torch to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.timing import Case, Samples, interleave

FLOAT_BYTES = 4
SGEMM_SIZE = 2048  # of the product that is run among the other cases
# The share of its best rate that sgemm keeps among the other cases. Measured 0.9 and more on a quiet machine; another
# program on one of two cores slows small products 5 to 10 times (threads wait for each other), and no ratio holds then.
STEADY = 0.8
_SIZES = (1024, 2048, 3072)
_BANDWIDTH_FLOATS = 1 << 26  # 256 MB, larger than any cache


@dataclass(frozen=True)
class Machine:
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
