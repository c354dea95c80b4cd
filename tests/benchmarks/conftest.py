"""The small bundle that devices copy and measure in these tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from devices.build_runner import build
from replayed_phone import small_bundle

from runtime_py.bundle import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle(tmp_path / "bundle")


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """With a UNet too; a command opens it, wherever it is said to be, without the checks that a real one passes."""
    bundle = small_bundle(tmp_path / "bundle")
    bundle.manifest["components"]["unet"] = bundle.manifest["components"]["hypernet"]
    monkeypatch.setattr(Bundle, "open", lambda path: bundle)
    return bundle


@pytest.fixture(scope="session")
def arm64_runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give lorarar-runner for an arm64 device, with ONNX Runtime only."""
    return build("arm64", tmp_path_factory.mktemp("runner-arm64"))
