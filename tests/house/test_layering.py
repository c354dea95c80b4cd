"""Who may import whom, that nothing goes in circles, and that importing a package loads no toolchain."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict

from source_tree import PACKAGES, ROOT, Import, circles, imports, sources

from runtime_py.backends import targets

TOOLCHAINS = (
    *("torch", "diffusers", "transformers", "peft", "onnx", "onnxruntime", "coremltools", "executorch"),
    *("coreai", "coreai_torch", "coreai_opt", "onnxruntime_qnn"),
)

# Package → the packages of ours that it may import. A command may import every library.
ALLOWED = {
    "lorarar": set(),
    "runtime_py": {"lorarar"},
    "export": {"lorarar", "runtime_py"},
    "benchmarks": {"lorarar", "runtime_py", "export"},
    "miniature": {"lorarar"},
    "human_study": {"lorarar"},
}
# Of lorarar, runtime_py may have what needs numpy, Pillow or matplotlib: a phone's reference must not lean on PyTorch.
NUMPY_ONLY = ("composed", "errors", "figures", "files", "toolchains", "images", "lora", "layout", "stack", "merging")
NEEDS_TORCH = ("lorarar.merging.ssr_grams", "lorarar.merging.ziplora")
# Modules that are run, as `lorarar X` or `python -m X`, and never imported.
COMMANDS = (
    "lorarar.commands",
    *(f"export.{name}" for name in ("hypernet", "unet", "pipeline")),
    "export.targets.qnn_compiler",
    "runtime_py.coreai_worker",
    "runtime_py.qnn_worker",
    *(f"benchmarks.{name}" for name in ("merge", "methods", "unet", "pipeline", "device", "estimate", "report")),
)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_command(module: str) -> bool:
    return any(within(module, command) for command in COMMANDS) or module.endswith("__main__")


def allowed(importer: str, imported: str) -> bool:
    """Tell whether one of our modules may import another of ours."""
    package, other = importer.partition(".")[0], imported.partition(".")[0]
    if is_command(imported):
        return is_command(importer)
    if is_command(importer) or package == other:
        return True
    if package == "runtime_py" and other == "lorarar":
        numpy_only = any(within(imported, f"lorarar.{name}") for name in NUMPY_ONLY)
        return imported == "lorarar" or (numpy_only and not any(within(imported, name) for name in NEEDS_TORCH))
    return other in ALLOWED[package]


def at(found: Import) -> str:
    return f"{found.importer}:{found.line} imports {found.imported}"


def test_layers() -> None:
    assert len(sources()) > 200 and len(imports()) > 500
    assert [at(found) for found in imports() if not allowed(found.importer, found.imported)] == []


def test_no_imports_go_in_circles() -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for found in imports():
        if not found.for_types:
            edges[found.importer].add(found.imported)
    assert circles(dict(edges)) == []


def test_imports_of_ours_inside_functions_have_a_stated_reason() -> None:
    wrong = [found for found in imports() if found.inside_function and not found.has_reason]
    assert [at(found) for found in wrong] == []


def test_the_rules_can_fail() -> None:
    assert not allowed("lorarar.lora.read", "runtime_py.bundle")
    assert not allowed("lorarar.training.trainer", "miniature.judge")
    assert not allowed("runtime_py.session", "lorarar.hypernet.network")
    assert not allowed("runtime_py.session", "lorarar.merging.ziplora")
    assert not allowed("export.api", "benchmarks.timing")
    assert not allowed("miniature.build", "lorarar.commands.train")
    assert allowed("lorarar.commands.check", "runtime_py.bundle")
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def loaded_by(statements: str) -> set[str]:
    """Return the toolchains that statements load in a fresh interpreter."""
    code = f"import sys\n{statements}\nprint(*(name for name in {TOOLCHAINS!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


def test_packages_and_commands_load_no_toolchain() -> None:
    # One interpreter for all of them. Every command's parser is made too: `--help` needs no toolchain.
    light = ["lorarar.base.names", "lorarar.training.settings", "runtime_py.bundle", "export.targets", *PACKAGES]
    light += [f"runtime_py.backends.{target}" for target in targets()]
    code = "\n".join(f"import {name}" for name in light)
    code += "\nfrom importlib import import_module\nfrom lorarar.commands import COMMANDS"
    code += "\nfor module, *_ in COMMANDS.values():\n    import_module(module).parser().format_help()"
    assert loaded_by(code) == set()


def test_the_light_test_can_fail() -> None:
    assert "torch" in loaded_by("import lorarar.hypernet.network")
