"""What commands print: one kind of table, one kind of progress bar. Libraries report through callbacks instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def printable(text: str) -> str:
    """Return a text with escapes for what a terminal would obey: names come from strangers' files. Line breaks stay."""
    escaped = (each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode() for each in text)
    return "".join(escaped)


OnProgress = Callable[[int, int], None]
"""Called with what is done and the total."""


def console(stderr: bool = False) -> Console:
    """Make a console for strangers' text: all of it is `printable`, brackets are no markup, `:dog:` is no emoji, and
    long lines wrap uncut.
    """
    return _console_class()(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


@cache
def _console_class() -> type[Console]:
    from rich.console import Console

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            """Make what is shown of a text, be it a line, a table's cell, its heading or its title."""
            return super().render_str(printable(text), **options)

    return PlainConsole


def warn(notes: Iterable[str]) -> None:
    """Print a line for each note to the standard error."""
    for note in notes:
        console(stderr=True).print(f"warning: {note}")


def print_rows(rows: Iterable[tuple[str, str]]) -> None:
    """Print pairs of a name and a text as two columns."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, left: Sequence[str] = ()
) -> None:
    """Print a table with headings; columns are numbers, aligned to the right, but for those named in `left`."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    for row in rows:
        table.add_row(*row)
    console().print(table)


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done while the block runs; yields a function that changes the text."""
    from rich.text import Text

    # A plain text would be read as markup, whatever the console's settings.
    with console(stderr=True).status(Text(text)) as shown:
        yield lambda told: shown.update(Text(told))


@contextmanager
def progress(text: str, total: int | None = None, hidden: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs, then clear it.

    Yields `update(done, total=None, note=None, text=None)`; a note stands behind the count (a loss, a name).
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    screen = console(stderr=True)
    # Where there is no terminal, rich would leave an empty line behind.
    with Progress(*columns, console=screen, transient=True, disable=hidden or not screen.is_terminal) as bar:
        task = bar.add_task(text, total=total, note="")

        def update(done: int, total: int | None = None, note: str | None = None, text: str | None = None) -> None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            bar.update(task, completed=done, total=total, description=text, **fields)

        yield update
