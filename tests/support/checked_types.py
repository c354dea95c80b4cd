"""Types and shapes of our packages checked while tests run. Imported before them, since what is imported is changed."""

from __future__ import annotations

import ast
import re
from typing import cast

import beartype
from jaxtyping import _import_hook, install_import_hook
from source_tree import PACKAGES, ROOT, is_for_types


def _shapes() -> frozenset[str]:
    """Return the names that stand for an array with a shape: jaxtyping's own, and those made of them here."""
    text = "\n".join(path.read_text(encoding="utf-8") for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    made = re.findall(r"^(\w+) = (.+)$", text, re.M)
    known: set[str] = set()
    more = set(", ".join(re.findall(r"^from jaxtyping import (.*)$", text, re.M)).split(", "))
    while more > known:
        known = more
        more = known | {name for name, value in made if known & set(re.findall(r"\w+", value))}
    return frozenset(known)


class _Transformer(_import_hook.JaxtypingTransformer):
    """Checks types everywhere, and shapes in functions that name one.

    A shape's check binds each call's parameters, a tenth of all time of the tests when every function did. Functions
    and classes inside functions are left unchecked: their check would be built anew by each call of the function around
    them, which takes milliseconds: writing a LoRA of 168 layers took seconds, and an export four times as long.
    """

    shapes = _shapes()

    def visit_Module(self, node: ast.Module) -> ast.Module:
        # The other check can't do with names that are there for type checkers alone.
        unknown = [alias for block in node.body if is_for_types(block) for alias in _imported(block)]
        self.slow = self.shapes.union(alias.asname or alias.name for alias in unknown)
        return super().visit_Module(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if self._inside():
            return node
        before = len(node.decorator_list)
        super().visit_FunctionDef(node)
        if len(node.decorator_list) > before and not self.slow & _annotation_names(node):
            shapes_check = cast(ast.Call, node.decorator_list[-1])
            node.decorator_list[-1] = shapes_check.keywords[0].value  # the check of types that it was given
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node if self._inside() else super().visit_ClassDef(node)

    def _inside(self) -> bool:
        return any(isinstance(parent, ast.FunctionDef) for parent in self._parents)


def _imported(block: ast.stmt) -> list[ast.alias]:
    """Return what the import statements of a block import."""
    return [alias for part in ast.walk(block) if isinstance(part, ast.Import | ast.ImportFrom) for alias in part.names]


def _annotation_names(node: ast.FunctionDef) -> set[str]:
    """Return the names in the types of a function's parameters and of what it returns."""
    hints = [node.args, *([node.returns] if node.returns else [])]
    return {part.id for hint in hints for part in ast.walk(hint) if isinstance(part, ast.Name)}


check_types = beartype.beartype
_import_hook.JaxtypingTransformer = _Transformer
# Named by its place here: Python keeps compiled modules by the name of their check, those of the usual hook as well.
install_import_hook(PACKAGES, "checked_types.check_types")
