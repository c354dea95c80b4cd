"""ONNX Runtime tells its maker nothing: where it does, it leaves a session file in the folder of temporary files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["runtime_py.backends.onnx", "export.targets.onnx_weights", "benchmarks.unet"])
def test_a_session_leaves_nothing(bundle_folders: dict[tuple[str, str], Path], tmp_path: Path, module: str) -> None:
    code = f"""
import sys
import {module}
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    model = bundle_folders["onnx", "fp32"] / "merger.onnx"
    subprocess.run([sys.executable, "-c", code, str(model)], env=environment | {"TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
