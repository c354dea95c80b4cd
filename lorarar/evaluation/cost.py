"""Measure what a merge costs: seconds, and memory beyond what was held before."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

_SAMPLE_EVERY = 0.002  # seconds


@dataclass
class Cost:
    """The cost of a block, filled in when it ends."""

    seconds: float = 0.0
    extra_bytes: int = 0


@contextmanager
def measured(device: str = "cpu") -> Iterator[Cost]:
    """Measure a block: wall time, and the most memory it held beyond what was held before it.

    On CUDA that is the allocator's peak on the device. On a CPU it is the process's resident memory, sampled every
    2 ms after the C library's free memory was given back: pages that a block frees and takes again between two samples
    are seen, a peak shorter than a sample may be missed.
    """
    cost = Cost()
    if device.startswith("cuda"):
        yield from _on_cuda(cost)
        return
    gc.collect()
    _give_back_free_memory()
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]
    sampler = threading.Thread(target=_sample, args=(process, peak, done), daemon=True)
    sampler.start()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        done.set()
        sampler.join()
        cost.extra_bytes = max(peak[0], process.memory_info().rss) - before


def _on_cuda(cost: Cost) -> Iterator[Cost]:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    try:
        yield cost
    finally:
        torch.cuda.synchronize()
        cost.seconds = time.perf_counter() - start
        cost.extra_bytes = max(0, torch.cuda.max_memory_allocated() - before)


def _sample(process: psutil.Process, peak: list[int], done: threading.Event) -> None:
    while not done.wait(_SAMPLE_EVERY):
        peak[0] = max(peak[0], process.memory_info().rss)


def _give_back_free_memory() -> None:
    # Else a block that reuses what an earlier one freed would seem to need nothing. glibc only.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
