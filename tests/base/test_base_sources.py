"""Opening a base: which of its files is read, and in which numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lorarar.base.names import load_layout
from lorarar.base.sources import open_unet


@pytest.mark.parametrize("shards", ["5GB", "100KB"])
@pytest.mark.parametrize("wide", [True, False])
def test_a_unet_has_the_numbers_of_the_file_that_is_loaded(
    shallow_pipeline: Path, tmp_path: Path, wide: bool, shards: str
) -> None:
    """And not those of a variant beside it, whose name comes first."""
    folder = Path(shutil.copytree(shallow_pipeline, tmp_path / "base"))
    shutil.rmtree(folder / "unet")
    unet = open_unet(str(shallow_pipeline), untrained=False)[0]
    loaded, beside = (torch.float32, torch.float16) if wide else (torch.float16, torch.float32)
    unet.to(loaded).save_pretrained(folder / "unet", max_shard_size=shards)
    unet.to(beside).save_pretrained(folder / "unet", variant="fp16")
    assert open_unet(str(folder), untrained=False)[0].dtype == loaded


def test_a_folder_has_its_own_name_from_inside_too(shallow_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shallow_pipeline)
    assert load_layout(".").base == load_layout(str(shallow_pipeline)).base == shallow_pipeline.resolve().name
