"""A table in a README that a program makes, between two comments that name it."""

from __future__ import annotations

from pathlib import Path

from lorarar.files import atomic_file

END = "<!-- end of calls -->\n"


def with_calls(text: str, program: str, table: str) -> str:
    """Return a README's text with the table of calls in its place, after the comment that names its program."""
    begin = f"<!-- calls: {program} -->\n"
    before, rest = text.split(begin)
    return before + begin + table + END + rest.split(END)[1]


def rewrite(readme: Path, text: str) -> None:
    """Write a README anew, at once or not at all."""
    with atomic_file(readme) as path:
        path.write_text(text, encoding="utf-8")
