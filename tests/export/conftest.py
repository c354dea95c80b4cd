"""What the tests of exports share: two LoRAs of the shallow base, with layers of whole transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_world import random_lora

from lorarar.base.names import load_layout
from lorarar.lora import write_lora


@pytest.fixture
def loras(shallow_pipeline: Path, tmp_path: Path) -> tuple[Path, Path]:
    layout = load_layout(str(shallow_pipeline), "transformer")
    paths = tmp_path / "content.safetensors", tmp_path / "style.safetensors"
    for seed, path in enumerate(paths):
        write_lora(random_lora(layout, (2,), seed, 0.4, 0.4), path)
    return paths
