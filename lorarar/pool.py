"""Run jobs in processes that end when their owner does: with its work, on Ctrl-C or SIGTERM, or killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, cast

from lorarar.errors import InputError


@contextmanager
def process_pool(
    workers: int,
    context: BaseContext | None = None,
    start: Callable[..., object] | None = None,
    arguments: tuple[Any, ...] = (),
    advice: str = "close other programs, and run again",
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool each of whose processes first calls `start(*arguments)`; what waits at the end is cancelled.

    Raises InputError, with the advice, when a process was killed.

    ProcessPoolExecutor alone goes on with the jobs begun when its owner is interrupted, and its processes wait for
    more, with all their memory, for good when it is killed. The owner's other children are left alone.
    """
    own = _Recording(context or multiprocessing.get_context())
    pool = ProcessPoolExecutor(workers, cast(BaseContext, own), _start, (start, arguments))
    try:
        yield pool
    except KeyboardInterrupt:
        for process in own.processes:
            if process.is_alive():
                process.terminate()
        raise
    except BrokenProcessPool:
        raise InputError(f"a process of this work was killed, most often for want of memory; {advice}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Recording:
    """A multiprocessing context that remembers the processes it made.

    ProcessPoolExecutor tells its processes in a private field alone (`terminate_workers` comes with Python 3.14).
    """

    def __init__(self, context: BaseContext) -> None:
        self.context = context
        self.processes: list[BaseProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> BaseProcess:
        """Make a process as the context does, and remember it."""
        made: BaseProcess = self.context.Process(*args, **kwargs)  # type: ignore[attr-defined]
        self.processes.append(made)
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)


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
