"""Write the engine's sentences to the app's string catalog.

PYTHONPATH=.:tests/support python tests/support/ios/sentences.py

Xcode itself extracts the screens' texts. It does not know the engine's `Sentence`, so this reads Swift's text: a
sentence is a literal in `InputError(…)`, `refuse(…)` or `Sentence(…)`. Translations that the catalog has stay; a
sentence that the code lost goes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ios.swift import DEMO, PACKAGE

CATALOG = DEMO / "App" / "Localizable.xcstrings"
SOURCES = (PACKAGE / "Sources" / "Merger", PACKAGE / "Sources" / "DemoCore", DEMO / "App" / "Sources")
STAGES = re.compile(r'(?:report\(|WorkProgress\(stage: |await perform\()"([^"]+)"')
START = re.compile(r'//.*|"')  # of a comment, or of a literal
PLUS = re.compile(r'\s*\+\s*"')
HEAD = re.compile(r"\b(?:InputError|refuse|Sentence)\(\s*$")


@dataclass(frozen=True)
class Literal:
    """A string literal: its place in the text, its catalog key, and the code of its values."""

    start: int
    end: int
    key: str
    values: tuple[str, ...]


def keys() -> list[str]:
    """Return every key that the engine's code has: stages of work and sentences."""
    found = {"starting"}
    for folder in SOURCES:
        for path in folder.glob("*.swift"):
            text = path.read_text(encoding="utf-8")
            found.update(STAGES.findall(text))
            found.update(sentences(text))
    return sorted(key for key in found if re.search("[A-Za-z]", key))


def sentences(text: str) -> Iterator[str]:
    """Yield the keys of the sentences in a Swift text, those within other sentences included."""
    for literal in _literals(text):
        if HEAD.search(text, max(0, literal.start - 80), literal.start):
            yield literal.key
        for code in literal.values:
            yield from sentences(code)


def _literals(text: str) -> Iterator[Literal]:
    """Yield the literals of a text; those with a plus between them are one."""
    at = 0
    while start := START.search(text, at):
        if start[0] != '"':
            at = start.end()
            continue
        literal = _literal(text, start.start())
        while plus := PLUS.match(text, literal.end):
            more = _literal(text, plus.end() - 1)
            literal = Literal(literal.start, more.end, literal.key + more.key, literal.values + more.values)
        yield literal
        at = literal.end


def _literal(text: str, start: int) -> Literal:
    """Read the literal of one line or of several that begins here."""
    mark = '"""' if text.startswith('"""', start) else '"'
    key, values, at = "", [], start + len(mark)
    while not text.startswith(mark, at):
        if text.startswith("\\(", at):
            end = _after_parenthesis(text, at + 2)
            values.append(text[at + 2 : end - 1])
            key, at = key + "%@", end
        elif text[at] == "\\":
            key, at = key + {"n": "\n", "t": "\t"}.get(text[at + 1], text[at + 1]), at + 2
        else:
            key, at = key + text[at].replace("%", "%%"), at + 1
    return Literal(start, at + len(mark), key, tuple(values))


def _after_parenthesis(text: str, at: int) -> int:
    depth = 1
    while depth:
        if text[at] == '"':
            at = _literal(text, at).end
            continue
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return at


def document() -> str:
    """Return the catalog's file with the keys of the code, in order; what it says of those that stay is kept."""
    found = json.loads(CATALOG.read_text(encoding="utf-8"))
    found["strings"] = {key: found["strings"].get(key) or _entry(key) for key in keys()}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def _entry(key: str) -> dict[str, Any]:
    return {"extractionState": "manual", "localizations": {"en": {"stringUnit": {"state": "translated", "value": key}}}}


if __name__ == "__main__":
    CATALOG.write_text(document(), encoding="utf-8")
