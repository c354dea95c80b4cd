"""The built engine, and bundles for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ios.swift import build
from ios.tool import GOLDEN
from shared_bundles import MiniatureBundle, SharedPipelines


@pytest.fixture(scope="session")
def products() -> Path:
    """Give the folder of the built engine."""
    return build()


@pytest.fixture(scope="session")
def miniature(miniature_bundle: MiniatureBundle) -> Path:
    """Give the miniature's whole bundle for ONNX Runtime."""
    return miniature_bundle("pipeline", "onnx", "fp32")


@pytest.fixture(scope="session")
def with_text(shared_pipelines: SharedPipelines) -> Path:
    """Give a whole bundle for ONNX Runtime whose text encoders take LoRAs too."""
    return shared_pipelines["onnx+text"].path


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a bundle of the golden hypernetwork that takes three LoRAs."""
    from tiny_world import tiny_hypernet, tiny_layout

    from export.options import HypernetOptions
    from export.write import write_hypernet

    folder = tmp_path_factory.mktemp("three") / "bundle"
    write_hypernet(tiny_hypernet(), tiny_layout("transformer"), HypernetOptions("onnx", "fp32", 4, loras=3), folder)
    return folder


@pytest.fixture
def golden_bundle(tmp_path: Path) -> Path:
    """Give a copy of the golden hypernetwork, to be damaged."""
    return shutil.copytree(GOLDEN / "hypernet" / "bundle", tmp_path / "bundle")
