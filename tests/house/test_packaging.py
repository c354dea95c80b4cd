"""pyproject.toml declares what the code imports, and a module imports no more than it says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

from source_tree import PACKAGES, ROOT, Source, is_for_types, sources

FOR_US_ALONE = ("dev", "docs")
"""The extras that no import of the packages may rely on."""
COME_WITH = {"tqdm": "coremltools"}
"""Package → the one that brings it and without which it is never imported: coremltools' own bars are switched off."""


def foreign(source: Source) -> set[str]:
    """Return the packages of others that a module imports when it runs, at any depth of its file."""
    typing = {id(node) for block in ast.walk(source.tree) if is_for_types(block) for node in ast.walk(block)}
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def distribution(name: str) -> str:
    """Return a distribution's name as packaging compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """Return the distributions that pyproject.toml names for a user."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name not in FOR_US_ALONE]
    lines = [line for extra in (project["dependencies"], *extras) for line in extra]
    return {distribution(re.split(r"[^\w.-]", line)[0]) for line in lines}


def test_every_import_is_declared() -> None:
    """One that another package happens to bring may be gone with its next release."""
    brings, known = {**packages_distributions(), **{name: [by] for name, by in COME_WITH.items()}}, declared()
    wrong = {
        f"{source.name} imports {name}"
        for source in sources().values()
        for name in foreign(source)
        if not known & {distribution(found) for found in brings.get(name, [name])}
    }
    assert wrong == set()
    assert {"onnx-ir", "numpy"} <= known and "pytest" not in known


def test_a_module_of_numpy_only_imports_nothing_larger() -> None:
    """Not inside a function either: it says what runs, not what its import loads."""
    says = re.compile(r"\bnumpy (only|alone)\.", re.IGNORECASE)
    numpy_only = [source for source in sources().values() if says.search(ast.get_docstring(source.tree) or "")]
    larger = {"torch", "diffusers", "transformers", "peft", "onnx", "onnxruntime", "coremltools", "executorch"}
    larger |= {"coreai", "coreai_torch", "coreai_opt", "onnxruntime_qnn"}
    assert len(numpy_only) > 8
    assert {source.name: found for source in numpy_only if (found := foreign(source) & larger)} == {}


def test_importing_a_package_sets_no_environment_variable() -> None:
    """Of a notebook's process, say, and of all that it starts."""
    code = "import os\nbefore = dict(os.environ)\n" + "".join(f"import {name}\n" for name in PACKAGES)
    code += "print({name for name in os.environ if os.environ[name] != before.get(name)})"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout == "set()\n"


def test_a_mark_is_where_its_make_target_looks() -> None:
    """`make test-devices` and `make test-apps` collect these folders alone: elsewhere a test would never be run."""
    folders = {"devices": {"benchmarks"}, "apps": {"android_demo", "ios_demo"}}
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    for mark, allowed in folders.items():
        marked = {path.parent.name for path, text in texts.items() if re.search(rf"\bmark\.{mark}\b", text)}
        assert marked == allowed
