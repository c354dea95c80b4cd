"""Write the engine's sentences to the app's resources.

PYTHONPATH=.:tests/support python tests/support/android/sentences.py

A sentence is the literal of `Sentence(…)`, `InputError(…)` or `refuse(…)`; its resource is named by its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.sax.saxutils import escape

from android.kotlin import APP, MERGER

RESOURCES = APP / "src" / "main" / "res" / "values" / "sentences.xml"
SOURCES = tuple(module / "src" / "main" / "kotlin" for module in (MERGER, APP))
HEAD = re.compile(r"\b(?:Sentence|InputError|refuse)\(\s*")
LITERAL = re.compile(r'"((?:[^"\\$]|\\.)*)"')
PLUS = re.compile(r"\s*\+\s*(?=\")")
NOT_LITERAL = (
    "template",
    "val ",
    "error.sentence",
    "passedOver.reduce",
    "sentence: Sentence",
    "sentence)",
    "Sentence(",
    "it ",
)
_HEAD = "<!-- What the engine says, by a command: tests/support/android/sentences.py. Translate it in values-… -->"


def templates() -> list[str]:
    """Return every template of the engine's code that has a word. ValueError for a sentence that is no literal."""
    found: set[str] = set()
    for folder in SOURCES:
        for path in folder.rglob("*.kt"):
            found.update(sentences(path.read_text(encoding="utf-8")))
    return sorted(template for template in found if re.search("[a-z]", template.replace("%s", "")))


def sentences(text: str) -> Iterator[str]:
    """Yield the templates in a Kotlin text; a sentence that is made of something else is refused."""
    for head in HEAD.finditer(re.sub(r"(?m)^\s*(?:/?\*|//).*$", "", text)):
        code = head.string
        literal = LITERAL.match(code, head.end())
        if literal is None:
            if not code.startswith(NOT_LITERAL, head.end()):
                raise ValueError(f"no literal: {code[head.start() : head.end() + 60]!r}")
            continue
        template = literal[1]
        while (plus := PLUS.match(code, literal.end())) and (literal := LITERAL.match(code, plus.end())):
            template += literal[1]
        yield template.encode().decode("unicode_escape").encode("latin-1").decode() if "\\" in template else template


def resource(template: str) -> str:
    """Name a template's resource, as the app's `Sentence.resource`."""
    words = re.split("[^a-z0-9]+", template.lower().replace("%s", " x "))
    return "said_" + "_".join(word for word in words if word)


def document() -> str:
    """Return the resources' file. ValueError where two sentences have the same words."""
    named = {resource(template): template for template in templates()}
    if len(named) != len(templates()):
        raise ValueError("two sentences differ by their signs alone")
    lines = [f'    <string name="{name}">{_value(template)}</string>' for name, template in sorted(named.items())]
    return "\n".join(['<?xml version="1.0" encoding="utf-8"?>', _HEAD, "<resources>", *lines, "</resources>", ""])


def _value(template: str) -> str:
    """Write a template as Android reads it: with numbered places, and in quotes, which keep two spaces."""
    number = iter(range(1, 100))
    places = re.sub("%s", lambda _: f"%{next(number)}$s", template)
    text = escape(places).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("'", "\\'")
    return f'"{text}"' if "  " in text else text


if __name__ == "__main__":
    RESOURCES.write_text(document(), encoding="utf-8")
