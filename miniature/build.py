"""Make models/miniature from nothing: its stages in order, each skipped once its result is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lorarar.base.names import DATASET_FOLDER, HYPERNET_FILE, JUDGE_FOLDER, MINIATURE, MINIATURE_FOLDER
from lorarar.training.hyper_settings import HyperSettings, default_hyper_settings
from lorarar.training.launch import flush_denormals
from lorarar.training.settings import LoraSettings, default_settings
from miniature import stages
from miniature.stages import Plan

SAMPLES = "samples.png"


def build(plan: Plan, names: Sequence[str]) -> None:
    """Run the named stages of STAGES, and say after each what it made and how long it took in all its runs.

    Raises InputError, before anything is made, when the work folder holds another plan's build.
    """
    from rich.console import Console

    stages.claim_work(plan)
    flush_denormals()
    console = Console(markup=False, highlight=False, soft_wrap=True)
    for name in names:
        made = STAGES[name](plan)
        console.print(f"{name:<12} {made}  {plan.seconds().get(name, 0.0) / 60:.1f} min")


def lora_options(folder: Path, seed: int) -> list[list[str]]:
    """The options of `lorarar train-lora` for the contents, and for the styles, of the miniature there.

    A style is one image. Trained for as long as a subject, its LoRA draws that image whatever the prompt; at these
    numbers it has more of the style as well (chosen on the validation part).
    """
    contents = replace(default_settings(MINIATURE), seed=seed)
    styles = replace(contents, steps=100, learning_rate=5e-4)
    shared = ["--base", _base(folder), "--dataset", str(folder / DATASET_FOLDER), "--jobs", "2", "--dtype", "fp16"]
    return [
        [*shared, "--only", only, *_flags(settings, LoraSettings())]
        for only, settings in (("contents", contents), ("styles", styles))
    ]


def hypernet_options(folder: Path, work: Path, seed: int) -> list[str]:
    """The options of `lorarar train` for the miniature there."""
    paths = ["--dataset", str(folder / DATASET_FOLDER), "-o", str(folder / HYPERNET_FILE)]
    flags = _flags(replace(default_hyper_settings(MINIATURE), seed=seed), HyperSettings())
    return ["--base", _base(folder), *paths, "--state", str(work / "hypernet.state"), *flags]


def _base(folder: Path) -> str:
    return MINIATURE if folder.resolve() == MINIATURE_FOLDER else str(folder)


def _flags(settings: LoraSettings | HyperSettings, of_folders: LoraSettings | HyperSettings) -> list[str]:
    """The miniature's settings as options, since a folder's defaults are the paper's."""
    flags: list[str] = []
    for name, value in vars(settings).items():
        if value != getattr(of_folders, name):
            flags += [f"--{name.replace('_', '-')}", "0" if value is None else str(value)]
    return flags


def _population(plan: Plan) -> Path:
    stages.drawings(plan)
    return plan.work / "population"


def _pipeline(plan: Plan) -> Path:
    """The pipeline and its sample grid."""
    from miniature.samples import write_samples

    # Its prompts are written last of all.
    if not (plan.made / SAMPLES).with_suffix(".json").is_file():
        with plan.timed("pipeline"):
            write_samples(stages.open_pipeline(stages.ship(plan)), plan.made / SAMPLES, plan.seed)
    return plan.made


def _judge(plan: Plan) -> Path:
    from miniature.judge_training import build_judge

    folder = plan.made / JUDGE_FOLDER
    if not folder.is_dir():
        with plan.timed("judge"):
            build_judge(plan.seed, plan.work / "judge", folder)
    return folder


def _references(plan: Plan) -> Path:
    from lorarar.training.dataset import DATASET_FILE
    from miniature.references import write_dataset

    folder = plan.made / DATASET_FOLDER
    # Its description is written last.
    if not (folder / DATASET_FILE).is_file():
        with plan.timed("references"):
            write_dataset(folder, plan.seed)
    return folder


def _loras(plan: Plan) -> Path:
    """The 56 LoRAs, by the command that trains anyone's."""
    from lorarar.commands.train_lora import main
    from lorarar.training.dataset import read_dataset
    from lorarar.training.dataset_loras import missing_jobs

    folder = plan.made / DATASET_FOLDER
    if missing_jobs(read_dataset(folder)):
        with plan.timed("loras"):
            for options in lora_options(plan.made, plan.seed):
                main(options)
    return folder / "loras"


def _hypernet(plan: Plan) -> Path:
    """The hypernetwork, by the command that trains anyone's."""
    from lorarar.commands.train import main

    path = plan.made / HYPERNET_FILE
    if not path.is_file():
        with plan.timed("hypernet"):
            main(hypernet_options(plan.made, plan.work, plan.seed))
    return path


def _card(plan: Plan) -> Path:
    """The card, with the commands as they are given for the output folder."""
    from miniature.card import write_card

    commands = {name: f"lorarar miniature build --until {name}" for name in STAGES if name not in LAST}
    loras = (" ".join(["lorarar train-lora", *given]) for given in lora_options(plan.output, plan.seed))
    commands["loras"] = "`, `".join(loras)
    commands["hypernet"] = " ".join(["lorarar train", *hypernet_options(plan.output, plan.work, plan.seed)])
    # As someone in the repository's folder gives them, whatever folder that is.
    here = f"{Path.cwd()}/"
    return write_card(plan, {name: command.replace(here, "") for name, command in commands.items()})


STAGES: Mapping[str, Callable[[Plan], Path]] = {
    "population": _population,
    "autoencoder": stages.autoencoder,
    "base": stages.base,
    "pipeline": _pipeline,
    "judge": _judge,
    "references": _references,
    "loras": _loras,
    "hypernet": _hypernet,
    "card": _card,
    "publish": stages.publish,
}
"""In order; the names are those of the command's help."""
LAST = ("card", "publish")
"""The stages that train and draw nothing."""
