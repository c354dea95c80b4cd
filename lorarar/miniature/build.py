"""Make models/miniature from nothing: `python -m lorarar.miniature build`. Stages resume; finished ones are skipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lorarar.bases import MINIATURE
from lorarar.cli import InputError
from lorarar.miniature import stages
from lorarar.miniature.stages import Plan

DATASET, HYPERNET, JUDGE = "dataset", "hypernet.safetensors", "judge"
"""What the output folder holds beside the pipeline."""


def train_loras(plan: Plan) -> Path:
    """The 56 LoRAs, through the command that trains anyone's."""
    from lorarar.train_lora import main

    folder = plan.output / DATASET
    main(lora_command(plan))
    return folder / "loras"


def lora_command(plan: Plan) -> list[str]:
    """The options of `python -m lorarar.train_lora`."""
    return ["--base", MINIATURE, "--dataset", str(plan.output / DATASET), "--jobs", "2", "--dtype", "fp16"]


def hypernet_command(plan: Plan) -> list[str]:
    """The options of `python -m lorarar.train`."""
    dataset, output = plan.output / DATASET, plan.output / HYPERNET
    return [
        "--base",
        MINIATURE,
        "--dataset",
        str(dataset),
        "-o",
        str(output),
        "--state",
        str(plan.work / "hypernet.state"),
    ]


def write_references(plan: Plan) -> Path:
    """The reference images and dataset.json."""
    from lorarar.miniature.references import write_dataset

    return write_dataset(plan.output / DATASET, plan.seed)


def train_hypernet(plan: Plan) -> Path:
    """The hypernetwork, through the command that trains anyone's."""
    from lorarar.train import main

    output = plan.output / HYPERNET
    if not output.is_file():
        main(hypernet_command(plan))
    return output


STAGES: Mapping[str, Callable[[Plan], Path]] = {
    "population": lambda plan: (stages.drawings(plan), plan.work / "population")[1],
    "autoencoder": stages.autoencoder,
    "base": stages.base,
    "pipeline": stages.ship,
    "references": write_references,
    "loras": train_loras,
    "hypernet": train_hypernet,
}
