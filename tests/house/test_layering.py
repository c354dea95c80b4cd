"""Who may import whom, and that importing a package imports no toolchain."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("lorarar", "export", "runtime_py", "benchmarks")
TOOLCHAINS = ("torch", "diffusers", "transformers", "peft", "onnx", "onnxruntime", "coremltools", "executorch")

# Of lorarar, runtime_py may have what is numpy only: a phone's reference must not lean on PyTorch.
NUMPY_ONLY = ("lorarar", "lorarar.cli", "lorarar.lora", "lorarar.layout", "lorarar.merging")
# The contract is defined by its reader; these modules of export write it or test it.
CONTRACT_WRITERS = tuple(
    f"export.{name}"
    for name in (
        *("golden", "manifest", "parity", "tolerance", "scheduling", "hypernet", "unet", "pipeline"),
        *("plan", "resume"),
        *("targets.onnx", "targets.coreml_chunks"),
    )
)


def allowed(module: str, imported: str) -> bool:
    """Whether one of our modules may import another of ours."""
    package, other = module.partition(".")[0], imported.partition(".")[0]
    if package == other:
        return True
    if package == "runtime_py":
        return (
            any(imported == name or imported.startswith(f"{name}.") for name in NUMPY_ONLY[1:]) or imported == "lorarar"
        )
    if package == "export":
        return other == "lorarar" or (other == "runtime_py" and module in CONTRACT_WRITERS)
    return package == "benchmarks"


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, at any depth of the file; `from package import name` both ways."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module}
    return {name for name in found if name.partition(".")[0] in OURS}


def modules() -> list[tuple[str, Path]]:
    files = [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in files]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_layers(module: str, path: Path) -> None:
    wrong = {name for name in imports(path) if not allowed(module, name)}
    assert not wrong, f"{module} may not import {', '.join(sorted(wrong))}"


def test_the_layer_rule_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f():\n    from lorarar.hypernet.network import Hypernetwork\n")
    assert imports(tmp_path / "bad.py") == {"lorarar.hypernet.network"}
    assert not allowed("runtime_py.bad", "lorarar.hypernet.network")
    assert not allowed("lorarar.lora", "runtime_py.bundle")
    assert not allowed("export.graph", "runtime_py.bundle")
    assert not allowed("export.graph", "benchmarks.merge")


def loaded_by(statement: str) -> set[str]:
    """The toolchains that a statement loads in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*(name for name in {TOOLCHAINS!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


LIGHT = [
    "lorarar",
    "lorarar.lora",
    "lorarar.layout",
    "lorarar.merging",
    "lorarar.base.names",
    "lorarar.commands.study",
    "lorarar.training",
    "lorarar.training.dataset",
    "lorarar.training.dataset_loras",
    "lorarar.evaluation.judges",
    "lorarar.evaluation.tables",
    "export",
    "export.targets",
    "export.hypernet",
    "export.unet",
    "export.pipeline",
    "runtime_py.bundle",
    "runtime_py.check",
    "runtime_py.merge",
    "runtime_py.generate",
    "runtime_py.contact_sheet",
    "runtime_py.mil",
    "runtime_py.backends",
    "benchmarks",
]


def test_light_packages_load_no_toolchain() -> None:
    # One interpreter for all of them; which one is guilty is found by the next test's way, one by one.
    assert loaded_by("\n".join(f"import {name}" for name in LIGHT if name not in ("export.targets",))) == set()


def test_the_light_test_can_fail() -> None:
    assert "torch" in loaded_by("import lorarar.hypernet.network")


@pytest.mark.parametrize(
    "command",
    [
        "export.hypernet",
        "export.unet",
        "export.pipeline",
        "runtime_py.check",
        "runtime_py.generate",
        "runtime_py.contact_sheet",
        "runtime_py.merge",
        "runtime_py.adapter",
        "lorarar.commands.merge",
        "lorarar.commands.evaluate",
        "lorarar.commands.synthetic",
        "lorarar.commands.study",
        "lorarar.commands.train_lora",
        "lorarar.commands.train",
        "benchmarks.merge",
        "runtime_py.mil",
    ],
)
def test_help_needs_no_toolchain(command: str) -> None:
    block = f"for name in {TOOLCHAINS!r}: sys.modules[name] = None"
    code = f"import runpy, sys\n{block}\nsys.argv = ['x', '--help']\nrunpy.run_module({command!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert "usage: python -m " in result.stdout
