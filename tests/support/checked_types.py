"""Types and shapes of our packages checked while tests run. Imported before them, since what is imported is changed."""

from __future__ import annotations

import ast

import beartype
from jaxtyping import _import_hook, install_import_hook

PACKAGES = ("lorarar", "export", "runtime_py", "benchmarks", "miniature", "human_study")


class _NotInside(_import_hook.JaxtypingTransformer):
    """Leaves functions and classes inside functions unchecked.

    Their check would be built anew by each call of the function around them, which takes milliseconds: writing a LoRA
    of 168 layers took seconds, and an export four times as long.
    """

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node if self._inside() else super().visit_FunctionDef(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node if self._inside() else super().visit_ClassDef(node)

    def _inside(self) -> bool:
        return any(isinstance(parent, ast.FunctionDef) for parent in self._parents)


check = beartype.beartype
_import_hook.JaxtypingTransformer = _NotInside
# Named by its place here: Python keeps compiled modules by the name of their check, those of the usual hook as well.
install_import_hook(PACKAGES, "checked_types.check")
