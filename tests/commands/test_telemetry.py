"""ONNX Runtime tells its maker nothing: where it does, it leaves a session file in the folder of temporary files."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from source_tree import Source, sources

CODE = """
import sys
from lorarar.toolchains import import_onnxruntime
import_onnxruntime().InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def test_a_session_leaves_nothing(bundle_folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    model = bundle_folders["onnx", "fp32"] / "hypernet.onnx"
    subprocess.run([sys.executable, "-c", CODE, str(model)], env=environment | {"TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_every_module_that_imports_onnxruntime_does_it_that_way() -> None:
    users = [source for source in sources().values() if _imports(source, "onnxruntime")]
    careless = [source.name for source in users if not _imports(source, "import_onnxruntime")]
    assert careless == []


def _imports(source: Source, name: str) -> bool:
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.name.partition(".")[0] for alias in node.names}
            found.add((getattr(node, "module", None) or "").partition(".")[0])
    return name in found
