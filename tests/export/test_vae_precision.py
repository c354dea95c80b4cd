"""A decoder of fewer bits than the UNet's, in a whole pipeline."""

from __future__ import annotations

from pathlib import Path

import torch

import export
from export.targets import find_target
from lorarar.base.sources import open_pipeline


def test_an_image_is_held_to_what_its_decoder_can_give(shallow_pipeline: Path, tmp_path: Path) -> None:
    """An image of fp16 numbers is 70 to 80 dB from the same in fp32, before the decoder's own errors."""
    pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
    report = export.pipeline(
        pipeline, target="coreai", precision="fp32", vae_precision="fp16", untrained=True, rank=2, out=tmp_path / "out"
    )
    assert {row.status for row in report.rows} == {"passed"}
    allowed = find_target("coreai").tolerances["pipeline"]["fp16"]
    assert report.manifest["pipeline"]["golden"]["tolerance"] == allowed.to_json()
