"""Make models/miniature from nothing: its stages in order, each skipped once its result is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lorarar.bases import DATASET_FOLDER, HYPERNET_FILE, JUDGE_FOLDER, MINIATURE, MINIATURE_FOLDER
from lorarar.miniature import stages
from lorarar.miniature.stages import Plan

SAMPLES = "samples.png"
"""What the output folder holds beside the pipeline."""


def build(plan: Plan, names: Sequence[str]) -> None:
    """Run the named stages of STAGES, and say after each what it made and how long it took in all its runs."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, soft_wrap=True)
    for name in names:
        made = STAGES[name](plan)
        console.print(f"{name:<12} {made}  {plan.seconds().get(name, 0.0) / 60:.1f} min")


def lora_options(plan: Plan) -> list[list[str]]:
    """The options of `python -m lorarar.train_lora` for the contents, and for the styles.

    A style is one image. Trained for as long as a subject, its LoRA draws that image whatever the prompt; at these
    numbers it has more of the style as well (chosen on the validation part).
    """
    shared = ["--base", _base(plan), "--dataset", str(plan.output / DATASET_FOLDER), "--jobs", "2", "--dtype", "fp16"]
    return [
        [*shared, "--only", "contents"],
        [*shared, "--only", "styles", "--steps", "100", "--learning-rate", "5e-4"],
    ]


def hypernet_options(plan: Plan) -> list[str]:
    """The options of `python -m lorarar.train`."""
    paths = ["--dataset", str(plan.output / DATASET_FOLDER), "-o", str(plan.output / HYPERNET_FILE)]
    return ["--base", _base(plan), *paths, "--state", str(plan.work / "hypernet.state")]


def _base(plan: Plan) -> str:
    return MINIATURE if plan.output.resolve() == MINIATURE_FOLDER else str(plan.output)


def _population(plan: Plan) -> Path:
    stages.drawings(plan)
    return plan.work / "population"


def _pipeline(plan: Plan) -> Path:
    """The pipeline and its sample grid."""
    from lorarar.miniature.samples import write_samples

    with plan.timed("pipeline"):
        folder = stages.ship(plan)
        write_samples(stages.open_pipeline(folder), folder / SAMPLES, plan.seed)
    return folder


def _judge(plan: Plan) -> Path:
    from lorarar.miniature.judge_training import build_judge

    folder = plan.output / JUDGE_FOLDER
    if not folder.is_dir():
        with plan.timed("judge"):
            build_judge(plan.seed, plan.work / "judge", folder)
    return folder


def _references(plan: Plan) -> Path:
    from lorarar.miniature.references import write_dataset

    with plan.timed("references"):
        return write_dataset(plan.output / DATASET_FOLDER, plan.seed)


def _loras(plan: Plan) -> Path:
    """The 56 LoRAs, by the command that trains anyone's."""
    from lorarar.train_lora import main
    from lorarar.training.dataset import read_dataset
    from lorarar.training.many import missing_jobs

    folder = plan.output / DATASET_FOLDER
    if missing_jobs(read_dataset(folder)):
        with plan.timed("loras"):
            for options in lora_options(plan):
                main(options)
    return folder / "loras"


def _hypernet(plan: Plan) -> Path:
    """The hypernetwork, by the command that trains anyone's."""
    from lorarar.train import main

    path = plan.output / HYPERNET_FILE
    if not path.is_file():
        with plan.timed("hypernet"):
            main(hypernet_options(plan))
    return path


def _card(plan: Plan) -> Path:
    from lorarar.miniature.card import write_card

    commands = {name: f"python -m lorarar.miniature build --until {name}" for name in STAGES if name != "card"}
    commands["loras"] = "`, `".join(" ".join(["python -m lorarar.train_lora", *given]) for given in lora_options(plan))
    commands["hypernet"] = " ".join(["python -m lorarar.train", *hypernet_options(plan)])
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
}
"""In order; the names are those of the command's help."""
