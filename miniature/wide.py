"""Make the wide test or validation: further subjects and styles, whose LoRAs anyone can train and none is published."""

from __future__ import annotations

from pathlib import Path

from lorarar.errors import InputError
from lorarar.training.dataset import DATASET_FILE, DEFAULT_SPLIT, read_dataset
from miniature.references import write_wide_dataset
from miniature.stages import BuildPlan, base_of, train_loras


def write_wide_test(plan: BuildPlan, base: Path, part: str = "test") -> Path:
    """Draw the wide test, or the wide validation, into the plan's output, and train its LoRAs on a base as a
    miniature's are; return the output.

    What is there already is kept, so that a stopped run goes on. `lorarar evaluate --dataset` takes the folder.
    Raises InputError for the folder of another dataset.
    """
    if not (plan.output / DATASET_FILE).is_file():
        write_wide_dataset(plan.output, plan.seed, part)
    elif not all(read_dataset(plan.output).part(DEFAULT_SPLIT, part)):
        raise InputError(f"{plan.output}: this folder holds another dataset, without a {part} part; name a new folder")
    train_loras(plan.output, base_of(base), plan.lora_settings(), plan.workers, plan.report)
    return plan.output
