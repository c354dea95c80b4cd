"""Draw many pictures in chunks, each kept in a file of its own: a stopped run loses no more than the chunks begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lorarar.files import atomic_file
from lorarar.pool import process_pool
from miniature.progress import Report, counted

Chunk = dict[str, np.ndarray]


def drawn_chunks(
    draw: Callable[[range], Chunk], chunks: dict[Path, range], workers: int, text: str, report: Report
) -> Iterator[Chunk]:
    """Draw the numbers of every chunk whose file is not there yet; then yield all chunks, read from their files."""
    with process_pool(workers) as pool:
        jobs = [pool.submit(_save, draw, numbers, path) for path, numbers in chunks.items() if not path.is_file()]
        for job in counted(jobs, len(jobs), text, report):
            job.result()
    for path in chunks:
        with np.load(path) as file:
            yield dict(file)


def _save(draw: Callable[[range], Chunk], numbers: range, path: Path) -> None:
    chunk = draw(numbers)
    with atomic_file(path) as temporary:
        np.savez(temporary, **chunk)
