"""Make models/miniature from nothing: its stages in order, each skipped once its result is there.

The stages' modules are imported when a stage runs: `lorarar miniature --help` lists the stages, and needs no toolchain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.base.names import DATASET_FOLDER, HYPERNET_FILE, JUDGE_FOLDER
from lorarar.training.dataset import DATASET_FILE, DEFAULT_SPLIT, read_dataset
from lorarar.training.dataset_loras import missing_jobs, train_jobs
from lorarar.training.launch import BaseLoading, flush_denormals, process_state, with_fastest_precision

if TYPE_CHECKING:
    from lorarar.training.history import HistoryRow
    from miniature.stages import BuildPlan

SAMPLES = "samples.png"

OnMade = Callable[[str, Path, float], None]
"""Called with a stage, what it made, and the seconds that it took in all its runs."""


@dataclass(frozen=True)
class Stage:
    """A stage of the build: what it does, and the function that does it and returns where its result is."""

    text: str
    run: Callable[[BuildPlan], Path]
    trains: bool = True  # or draws: a part of what the card tells commands and times of


def build(plan: BuildPlan, names: Sequence[str], on_made: OnMade | None = None) -> None:
    """Run the named stages of STAGES.

    Raises InputError, before anything is made, when the work folder holds another plan's build.
    """
    from miniature.stages import claim_work  # imports torch

    claim_work(plan)
    flush_denormals()
    for name in names:
        made = STAGES[name].run(plan)
        if on_made is not None:
            on_made(name, made, plan.seconds().get(name, 0.0))


def _population(plan: BuildPlan) -> Path:
    from miniature.stages import drawings  # imports torch

    drawings(plan)
    return plan.work / "population"


def _autoencoder(plan: BuildPlan) -> Path:
    from miniature.stages import autoencoder  # imports torch

    return autoencoder(plan)


def _base(plan: BuildPlan) -> Path:
    from miniature.stages import base  # imports torch

    return base(plan)


def _pipeline(plan: BuildPlan) -> Path:
    """Write the pipeline and its sample grid."""
    from miniature.samples import write_samples  # imports torch
    from miniature.stages import open_pipeline, ship  # imports torch

    # Its prompts are written last of all.
    if not (plan.made / SAMPLES).with_suffix(".json").is_file():
        with plan.timed("pipeline"):
            write_samples(open_pipeline(ship(plan)), plan.made / SAMPLES, plan.seed)
    return plan.made


def _judge(plan: BuildPlan) -> Path:
    from miniature.judge_training import build_judge  # imports torch

    folder = plan.made / JUDGE_FOLDER
    if not folder.is_dir():
        with plan.timed("judge"):
            build_judge(plan.seed, plan.work / "judge", folder, report=plan.report)
    return folder


def _references(plan: BuildPlan) -> Path:
    from miniature.references import write_dataset  # imports Pillow

    folder = plan.made / DATASET_FOLDER
    # Its description is written last.
    if not (folder / DATASET_FILE).is_file():
        with plan.timed("references"):
            write_dataset(folder, plan.seed)
    return folder


def _loras(plan: BuildPlan) -> Path:
    """Train the 56 LoRAs, as `lorarar train-lora --dataset` trains anyone's."""
    from miniature.stages import LORA_DTYPE, base_of  # imports torch

    folder = plan.made / DATASET_FOLDER
    dataset = read_dataset(folder)
    for only, wanted in plan.lora_settings().items():
        jobs = missing_jobs(dataset, [only])
        if not jobs:
            continue
        process = process_state()
        settings = with_fastest_precision(wanted, process)
        loading = BaseLoading.of(base_of(plan.made), process, settings.mixed_precision, dataset.resolution)
        steps: list[float] = []

        def on_step(name: str, loss: float, seen: list[float] = steps, total: int = settings.steps * len(jobs)) -> None:
            seen.append(loss)
            plan.report(f"{name}, loss {loss:.4f}", len(seen), total)

        with plan.timed("loras"):
            train_jobs(jobs, loading, settings, LORA_DTYPE, plan.workers, on_step)
    return folder / "loras"


def _hypernet(plan: BuildPlan) -> Path:
    """Train the hypernetwork, as `lorarar train` trains anyone's."""
    from lorarar.training.trainer import load_inputs, train_predictor  # imports torch
    from miniature.stages import base_of  # imports torch

    path = plan.made / HYPERNET_FILE
    if path.is_file():
        return path
    dataset = read_dataset(plan.made / DATASET_FOLDER)
    process = process_state()
    settings = with_fastest_precision(replace(plan.hyper, seed=plan.seed), process)
    loading = BaseLoading.of(base_of(plan.made), process, settings.mixed_precision, dataset.resolution)

    def on_row(row: HistoryRow) -> None:
        plan.report(f"hypernetwork, {row.part} loss {row.total:.5f}", row.step, settings.steps)

    with plan.timed("hypernet"):
        inputs = load_inputs(loading, dataset, DEFAULT_SPLIT, settings)
        train_predictor(inputs, settings, on_row=on_row, state=plan.work / "hypernet.state").save(path)
    return path


def _card(plan: BuildPlan) -> Path:
    from miniature.card import write_card  # imports torch

    return write_card(plan, [name for name, stage in STAGES.items() if stage.trains])


def _publish(plan: BuildPlan) -> Path:
    from miniature.stages import publish  # imports torch

    return publish(plan)


STAGES: Mapping[str, Stage] = {
    "population": Stage("draw the captioned pictures that the base is trained on", _population),
    "autoencoder": Stage("train the VAE", _autoencoder),
    "base": Stage("train the UNet and both text encoders", _base),
    "pipeline": Stage("write the pipeline in half precision, and a grid of its samples", _pipeline),
    "judge": Stage("train the verifier that stands in for a language model", _judge),
    "references": Stage("draw the reference images of the held-out subjects and styles", _references),
    "loras": Stage("train a LoRA for each of them", _loras),
    "hypernet": Stage("train the hypernetwork", _hypernet),
    "card": Stage("write the model card", _card, trains=False),
    "publish": Stage("put all of it in place of the output folder", _publish, trains=False),
}
"""Every stage by its name, in order."""
