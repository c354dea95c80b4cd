"""A pool of processes that end when the command does: with its work, on Ctrl-C or SIGTERM, or killed. No toolchain."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from typing import Any


@contextmanager
def process_pool(
    workers: int,
    context: BaseContext | None = None,
    start: Callable[..., object] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool each of whose processes first calls `start(*arguments)`; what waits at the end is cancelled.

    ProcessPoolExecutor alone goes on with the jobs begun when its owner is interrupted, and its processes wait for
    more, with all their memory, for good when it is killed.
    """
    pool = ProcessPoolExecutor(workers, context, _start, (start, arguments))
    try:
        yield pool
    except KeyboardInterrupt:
        # No command has other children of this kind beside its pool's.
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(start: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    # A terminal's Ctrl-C reaches every process; the owner hears it too, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A forked process has its owner's handler.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_owner() -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None
    wait([owner.sentinel])
    os._exit(1)
