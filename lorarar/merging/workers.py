"""Merge layers, which are independent of each other, one on each thread. Imports torch when called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lorarar.merging.types import LayerPair, MergedLayer


def one_layer_a_core(work: Callable[[LayerPair], MergedLayer], pairs: Sequence[LayerPair]) -> Iterator[MergedLayer]:
    """Yield `work` of every pair, in order, with a thread for each core and one layer on each thread.

    Measured: a decomposition that is spread over the cores takes longer than on one of them, and many times as long on
    a busy machine, since its threads wait for each other at every step.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, pairs)
    finally:
        torch.set_num_threads(threads)
