"""Keep pipelines that are in the making: in fp32, with the losses and the trainings of their networks beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.files import atomic_folder
from lorarar.toolchains import quiet_toolchains, without_progress_bars

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

LOSSES = "losses.json"  # of a pipeline's last training, by step
TRAININGS = "trainings.json"  # of a pipeline's networks, from the first


def open_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """Open a diffusers folder in fp32, without progress bars."""
    with quiet_toolchains(), without_progress_bars():
        from diffusers import StableDiffusionXLPipeline

        # Only safetensors, since a stranger's pickle can run code.
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_trained(
    pipeline: StableDiffusionXLPipeline, folder: Path, losses: list[float], trainings: list[dict[str, Any]]
) -> None:
    """Write a pipeline whose training has ended, with its losses by step and the trainings of its networks."""
    with atomic_folder(folder) as temporary, without_progress_bars():
        pipeline.save_pretrained(temporary)
        (temporary / LOSSES).write_text(json.dumps(losses))
        (temporary / TRAININGS).write_text(lines_of_trainings(trainings))


def lines_of_trainings(trainings: list[dict[str, Any]]) -> str:
    """Return the text of the file TRAININGS."""
    return json.dumps(trainings, indent=1) + "\n"


def steps_of(folder: Path) -> int:
    """Return the steps that a pipeline's UNet was trained for."""
    return sum(training["steps"] for training in trainings_of(folder) if training["stage"] in ("base", "longer"))


def trainings_of(folder: Path) -> list[dict[str, Any]]:
    """Return the trainings of a pipeline's networks, from the first; none for a pipeline that does not tell."""
    path = folder / TRAININGS
    return json.loads(path.read_text()) if path.is_file() else []
