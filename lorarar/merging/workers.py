"""Layers are independent of each other: one a thread. Imports torch when called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lorarar.merging.types import MergedLayer, LayerPair


def one_layer_a_core(work: Callable[[LayerPair], MergedLayer], pairs: Sequence[LayerPair]) -> Iterator[MergedLayer]:
    """`work` on every pair, in order, a thread a core and one layer a thread.

    Measured: a decomposition spread over the cores takes longer than on one of them, many times so on a busy machine,
    since its threads wait for each other at every step.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, pairs)
    finally:
        torch.set_num_threads(threads)
