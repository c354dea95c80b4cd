"""Report how far the miniature's stages are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
Item = TypeVar("Item")


def silent(text: str, done: int, total: int) -> None:
    """Report nothing."""


def counted(items: Iterable[Item], total: int, text: str, report: Report) -> Iterator[Item]:
    """Yield the items, and report after each."""
    for done, item in enumerate(items, 1):
        yield item
        report(text, done, total)
