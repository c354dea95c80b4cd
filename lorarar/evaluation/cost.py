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

    That is the process's resident memory, sampled every 2 ms after the C library's free memory was given back: pages
    that a block frees and takes again between two samples are seen, a peak shorter than a sample may be missed. On
    CUDA the most that PyTorch's allocator had of the GPU's memory comes on top.
    """
    cost, on_gpu = Cost(), device.startswith("cuda")
    gc.collect()
    _give_back_free_memory()
    held_of_gpu = _restart_gpu_peak() if on_gpu else 0
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]
    sampler = threading.Thread(target=_sample, args=(process, peak, done), daemon=True)
    sampler.start()
    start = time.perf_counter()
    try:
        yield cost
    finally:
        of_gpu = _gpu_peak() - held_of_gpu if on_gpu else 0
        cost.seconds = time.perf_counter() - start
        done.set()
        sampler.join()
        cost.extra_bytes = max(peak[0], process.memory_info().rss) - before + of_gpu


def _restart_gpu_peak() -> int:
    """Forget the GPU's peak so far; return the bytes that are held."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _gpu_peak() -> int:
    """Wait for the GPU; return the most bytes that were held."""
    import torch

    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _sample(process: psutil.Process, peak: list[int], done: threading.Event) -> None:
    while not done.wait(_SAMPLE_EVERY):
        peak[0] = max(peak[0], process.memory_info().rss)


def _give_back_free_memory() -> None:
    # Else a block that reuses what an earlier one freed would seem to need nothing. glibc only.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
