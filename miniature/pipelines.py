"""Keep pipelines that are in the making: in fp32, with the losses and the trainings of their networks beside them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorarar.base import sources
from lorarar.files import atomic_folder, read_json
from lorarar.toolchains import without_progress_bars

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

LOSSES = "losses.json"  # of a pipeline's last training, by step
TRAININGS = "trainings.json"  # of a pipeline's networks, from the first
_TRAINING = {"stage": {"type": "string"}, "steps": {"type": "integer", "minimum": 0}}
_TRAININGS_SCHEMA = {
    "type": "array",
    "items": {"type": "object", "properties": _TRAINING, "required": list(_TRAINING)},
}


def open_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """Open a diffusers folder in fp32, without progress bars. Raises InputError for one that can't be loaded."""
    pipeline: StableDiffusionXLPipeline = sources.open_pipeline(str(folder.absolute()), False, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_trained(
    pipeline: StableDiffusionXLPipeline, folder: Path, losses: list[float], trainings: list[dict[str, Any]]
) -> None:
    """Write a pipeline whose training has ended, with its losses by step and the trainings of its networks."""
    with atomic_folder(folder) as temporary:
        write_pipeline(pipeline, temporary, trainings)
        (temporary / LOSSES).write_text(json.dumps(losses))


def write_pipeline(pipeline: StableDiffusionXLPipeline, folder: Path, trainings: list[dict[str, Any]]) -> None:
    """Write a pipeline as diffusers does, with the trainings of its networks.

    Raises OSError where the disk is full, of which safetensors tells in words alone.
    """
    from safetensors import SafetensorError

    try:
        with without_progress_bars():
            pipeline.save_pretrained(folder)
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
    (folder / TRAININGS).write_text(lines_of_trainings(trainings))


def lines_of_trainings(trainings: list[dict[str, Any]]) -> str:
    """Return the text of the file TRAININGS."""
    return json.dumps(trainings, indent=1) + "\n"


def steps_of(folder: Path) -> int:
    """Return the steps that a pipeline's UNet was trained for."""
    return sum(training["steps"] for training in trainings_of(folder) if training["stage"] in ("base", "longer"))


def trainings_of(folder: Path) -> list[dict[str, Any]]:
    """Return the trainings of a pipeline's networks, from the first; none for a pipeline that does not tell.

    Raises InputError for a file of another program.
    """
    path = folder / TRAININGS
    if not path.is_file():
        return []
    mend = "remove it, and the pipeline's trainings are unknown"
    return read_json(path, what="a pipeline's trainings", mend=mend, schema=_TRAININGS_SCHEMA)
