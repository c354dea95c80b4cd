"""The engine's command-line tool, run on ONNX Runtime's library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ios.swift import ROOT, Ran, execute, onnxruntime_library

GOLDEN = Path(__file__).parents[2] / "golden"
_LORAS = ROOT / "models" / "miniature" / "dataset" / "loras"
CONTENT, STYLE = _LORAS / "contents" / "teapot_1.safetensors", _LORAS / "styles" / "oil_painting_2.safetensors"
# Bytes that merger-tool may allocate on hostile files, its threads' stacks included.
MEMORY = 400 * 2**20


def tool(products: Path, *arguments: object, library: Path | None = None, settings: Mapping[str, str] = {}) -> Ran:
    """Run merger-tool with ONNX Runtime's library, this environment's if no other is given."""
    chosen = str(library or onnxruntime_library())
    return execute(products / "merger-tool", *map(str, arguments), "--library", chosen, settings=settings)
