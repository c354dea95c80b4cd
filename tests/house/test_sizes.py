"""The house's measures: lengths of files and functions, and how a docstring begins."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from source_tree import ROOT, functions, sources

LONGEST_FILE, LONGEST_FUNCTION = 400, 40
KOTLIN, WIDEST_KOTLIN = sorted((ROOT / "android_demo").rglob("*.kt")), 130
# A public docstring begins with a verb. These words begin a sentence that has none.
NO_VERBS = {
    *("a", "an", "the", "this", "that", "these", "those", "what", "whether", "how", "where", "why", "when", "which"),
    *("who", "one", "two", "every", "each", "all", "both", "its", "their", "for", "from", "in", "on", "at", "by", "as"),
    *("no", "not", "some", "any", "if", "to", "with", "without", "of", "only", "same", "seconds", "bytes"),
}


def test_files_are_short() -> None:
    paths = [*(source.path for source in sources().values()), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{source.name}.{function.name}": _length(function)
        for source in sources().values()
        for function in functions(source)
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", KOTLIN, ids=lambda path: path.name)
def test_kotlin_files_and_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < LONGEST_FILE
    assert max(map(len, lines)) <= WIDEST_KOTLIN
    start, indent = None, ""
    for number, line in enumerate(lines):
        if found := re.match(r"(\s*)(?:\w+ )*fun [^=]*\{$", line):
            start, indent = number, found[1]
        elif start is not None and line == f"{indent}}}":
            assert number - start < LONGEST_FUNCTION, f"{path.name}:{start + 1}"
            start = None


def test_public_functions_say_what_they_do() -> None:
    wrong = []
    for source in sources().values():
        for function in functions(source):
            text = ast.get_docstring(function)
            if text and not function.name.startswith("_") and not _is_property(function):
                word = text.split()[0].strip("`'\"“.,:;").lower()
                if word in NO_VERBS or not word.isascii() or not word.replace("-", "").isalpha():
                    wrong.append(f"{source.name}:{function.lineno} {function.name}: {text.splitlines()[0]}")
    assert wrong == []


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its docstring, which is as long as its parameters need."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    text = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - text


def _is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.dump(decorator) for decorator in function.decorator_list)
