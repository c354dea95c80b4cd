"""The built engine, and bundles for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ios.swift import build
from ios.tool import GOLDEN
from shared_bundles import MiniatureBundle


@pytest.fixture(scope="session")
def products() -> Path:
    """Give the folder of the built engine."""
    return build()


@pytest.fixture(scope="session")
def miniature(miniature_bundle: MiniatureBundle) -> Path:
    """Give the miniature's whole bundle for ONNX Runtime."""
    return miniature_bundle("pipeline", "onnx", "fp32")


@pytest.fixture
def golden_bundle(tmp_path: Path) -> Path:
    """Give a copy of the golden merger, to be damaged."""
    return shutil.copytree(GOLDEN / "merger" / "bundle", tmp_path / "bundle")
