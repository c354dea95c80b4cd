"""The repository's own Python sources, parsed once: who imports whom, and how long things are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("lorarar", "export", "runtime_py", "benchmarks", "miniature", "human_study")


@dataclass(frozen=True)
class Import:
    """One import of a module of ours."""

    importer: str
    imported: str
    line: int
    inside_function: bool
    has_reason: bool  # a comment on its line, or on the line above the imports that it stands among
    for_types: bool  # under TYPE_CHECKING


@dataclass(frozen=True)
class Source:
    """One module of ours."""

    name: str
    path: Path
    lines: tuple[str, ...]
    tree: ast.Module


@cache
def sources() -> dict[str, Source]:
    """Return every module of ours by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            text = path.read_text(encoding="utf-8")
            found[name] = Source(name, path, tuple(text.splitlines()), ast.parse(text))
    return found


@cache
def imports() -> tuple[Import, ...]:
    """Return every import of a module of ours by another, at any depth of a file."""
    return tuple(found for source in sources().values() for found in _imports_of(source, set(sources())))


def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, methods and inner ones too."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (strongly connected, Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for imported in edges.get(module, ()):
            if imported not in order:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in stack:
                low[module] = min(low[module], order[imported])
        if low[module] == order[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in edges:
        if module not in order:
            visit(module)
    return found


def _imports_of(source: Source, modules: set[str]) -> Iterator[Import]:
    inside = {id(node) for function in functions(source) for node in ast.walk(function)}
    typing = {id(node) for block in ast.walk(source.tree) if is_for_types(block) for node in ast.walk(block)}
    for node in ast.walk(source.tree):
        for name in _named(node, modules):
            if name != source.name:
                reason = _has_reason(source.lines, node.lineno)  # type: ignore[attr-defined]
                yield Import(source.name, name, node.lineno, id(node) in inside, reason, id(node) in typing)  # type: ignore[attr-defined]


def _named(node: ast.AST, modules: set[str]) -> set[str]:
    """The modules of ours that a statement imports; `from package import module` is that module."""
    if isinstance(node, ast.Import):
        names = {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        names = {f"{node.module}.{alias.name}" for alias in node.names}
        names = {name if name in modules else node.module for name in names}
    else:
        return set()
    return names & modules


def is_for_types(node: ast.AST) -> bool:
    """Tell whether a statement is a block of imports for type checkers alone."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _has_reason(lines: tuple[str, ...], line: int) -> bool:
    at = line - 1
    if "#" in lines[at]:
        return True
    # Up through the imports that stand together; a reason above the first of them is a reason for all.
    while at > 0 and lines[at - 1].strip().startswith(("from ", "import ", "with ", "try:")):
        at -= 1
    return lines[at - 1].strip().startswith("#")
