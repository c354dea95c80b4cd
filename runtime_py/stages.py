"""Tell how far a long call has come, and where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnStage = Callable[[str, int, int], None]
"""Called with the stage, and how many of its steps are done of how many."""


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the seconds that the block takes under the stage's name."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
