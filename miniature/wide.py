"""Make the wide test, validation and training: further subjects and styles, whose LoRAs anyone can train and none is
published.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.training.dataset import DATASET_FILE
from miniature.references import wide_sides, write_wide_dataset
from miniature.stages import BuildPlan, base_of, digests_of, noted, refuse_strange, train_loras

NOTE = "wide.json"


def write_wide(plan: BuildPlan, base: Path, part: str = "test") -> Path:
    """Draw the wide test, validation or training into the plan's output, and train its LoRAs on a base as a miniature's
    are; return the output.

    What is there already is kept, so that a stopped run goes on. `lorarar evaluate --dataset` takes the folder.
    Raises InputError for a folder of other things, of another dataset or of another base's LoRAs.
    """
    _claim(plan, base, part)
    if not (plan.output / DATASET_FILE).is_file():
        write_wide_dataset(plan.output, plan.seed, part)
    train_loras(plan.output, base_of(base), plan.lora_settings(), plan.workers, plan.report)
    return plan.output


def _claim(plan: BuildPlan, base: Path, part: str) -> None:
    """Note in the output what it is for; refuse a folder that is for something else.

    The drawings are noted too: a folder of an earlier toolkit may have other subjects under the same names.
    """
    about: dict[str, Any] = {
        "part": part,
        "drawings": [{name: asdict(item) for name, item in side.items()} for side in wide_sides(part)],
        "seed": plan.seed,
        "base": digests_of(base),
        "loras": {only: asdict(settings) for only, settings in plan.lora_settings().items()},
    }
    refuse_strange(plan.output, NOTE)
    different = list(noted(plan.output / NOTE, about))
    if different:
        raise InputError(
            f"{plan.output}: this folder holds another dataset ({', '.join(different)}); name a new folder"
        )
