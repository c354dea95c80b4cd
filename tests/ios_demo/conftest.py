"""The built engine, and bundles for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ios.swift import build
from ios.tool import GOLDEN


@pytest.fixture(scope="session")
def products() -> Path:
    """Give the folder of the built engine."""
    return build()


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the miniature's whole bundle for ONNX Runtime."""
    from lorarar.commands.export import main

    folder = tmp_path_factory.mktemp("miniature") / "onnx"
    assert main(["pipeline", "--target", "onnx", "--steps", "4", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def golden_bundle(tmp_path: Path) -> Path:
    """Give a copy of the golden merger, to be damaged."""
    return shutil.copytree(GOLDEN / "merger" / "bundle", tmp_path / "bundle")
