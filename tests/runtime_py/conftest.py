"""What the tests of the runtime share: a whole bundle of stand-ins, and what notes which of them were loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stand_in import StandIn, make_bundle, stand_in_backend

from runtime_py.backends import onnx


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("stand-in") / "bundle")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins run everything; the components that were loaded, in order."""
    names: list[str] = []

    class Noted(StandIn):
        def __init__(self, component: Any) -> None:
            super().__init__(component)
            names.append(component.name)

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(Noted))
    return names
