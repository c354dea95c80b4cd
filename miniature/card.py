"""Write the miniature's model card: what it is, how each part was made, how long that took, what it measures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

from lorarar.base.names import DATASET_FOLDER, HYPERNET_FILE, JUDGE_FOLDER, MINIATURE_FOLDER
from lorarar.command_line import settings_as_options
from lorarar.files import atomic_file
from lorarar.hypernet.checkpoints import load_predictor
from lorarar.machine import machine_name
from lorarar.markdown import markdown_table
from lorarar.training.hyper_settings import HyperSettings
from lorarar.training.settings import LoraSettings
from miniature.build import DEFAULT_WORK, STAGES
from miniature.pipelines import trainings_of
from miniature.stages import LORA_DTYPE, BuildPlan, base_of

FRONT = """# The miniature

An SDXL-shaped pipeline, small enough for two CPU cores, trained from nothing on drawings that `miniature`
makes, with the LoRAs and the hypernetwork of the paper's method. It stands in for SDXL and KOALA where their weights
can't be had: tests, the quickstart, the demo apps.

```python
from diffusers import StableDiffusionXLPipeline

pipeline = StableDiffusionXLPipeline.from_pretrained("models/miniature")
prompt = "a red dog with white spots in watercolor painting style"
pipeline(prompt, num_inference_steps=25, guidance_scale=2.5, guidance_rescale=0.7).images[0]
```

![samples](samples.png)

Each image above has the prompt of its place in `samples.json`. All weights, images and names are of this project; no
picture, weight or text of anyone else is in them.
"""


_STARTED = (
    "The pipeline that it was started from is not kept: the next section tells how its networks were trained. "
    "`lorarar miniature build -o build/mine` makes another miniature from nothing, by the same stages; without `-o` it "
    "takes the shipped one's place."
)


def write_card(plan: BuildPlan) -> Path:
    """Write README.md beside the pipeline, with the commands that make each stage for the output folder."""
    path = plan.made / "README.md"
    parts = [FRONT, _inside(plan.made), _times(plan), _trainings(plan.made), _judge(plan.made), _hypernet(plan.made)]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return path


def stage_commands(plan: BuildPlan, stage: str) -> list[list[str]]:
    """Return the commands that make one stage alone, for the output folder.

    Those of trainings tell all the settings that are not the paper's, which are a folder's defaults.
    """
    data = ["--base", base_of(plan.output), "--dataset", str(plan.output / DATASET_FOLDER)]
    if stage == "loras":
        shared = ["lorarar", "train-lora", *data, "--jobs", str(plan.workers), "--dtype", LORA_DTYPE]
        return [
            [*shared, "--only", only, *settings_as_options(settings, LoraSettings())]
            for only, settings in plan.lora_settings().items()
        ]
    if stage == "hypernet":
        files = ["-o", str(plan.output / HYPERNET_FILE), "--state", str(plan.work / "hypernet.state")]
        options = settings_as_options(replace(plan.hyper, seed=plan.seed), HyperSettings())
        return [["lorarar", "train", *data, *files, *options]]
    return [[*_whole_build(plan), "--until", stage]]


def _whole_build(plan: BuildPlan) -> list[str]:
    """Return the command of all stages, with the options that are not the command's defaults."""
    usual = BuildPlan(DEFAULT_WORK, MINIATURE_FOLDER)
    values = {
        "--work": (plan.work.resolve(), usual.work.resolve()),
        "--out": (plan.output.resolve(), usual.output),
        "--seed": (plan.seed, usual.seed),
        "--start": (plan.start, usual.start),
        "--rounds": (plan.rounds, usual.rounds),
        "--steps": (plan.longer.steps, usual.longer.steps),
        "--batch": (plan.batch, usual.batch),
        "--rate": (plan.longer.rate, usual.longer.rate),
        "--device": (plan.device, usual.device),
    }
    given = [[flag, str(value)] for flag, (value, default) in values.items() if value != default]
    return ["lorarar", "miniature", "build", *chain.from_iterable(given)]


def _inside(folder: Path) -> str:
    unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    shape = f"KOALA's shape: widths {unet['block_out_channels']}, no mid block, text_time conditioning"
    parts = {
        "unet": shape,
        "text_encoder text_encoder_2": "CLIP text encoders, taught to read captions",
        "vae": "96×96 pixels to 24×24 latents",
        DATASET_FOLDER: "30 subjects, 26 styles, their images and LoRAs, three splits",
        HYPERNET_FILE: "LoRA.rar's hypernetwork; its metadata has every option",
        JUDGE_FOLDER: "the verifier; its `config.json` has its accuracies",
    }
    sized = []
    for names, text in parts.items():
        places = names.split()
        sized.append((", ".join(f"`{name}`" for name in places), text, _size(*(folder / name for name in places))))
    sized.append(("all", "", _size(folder)))
    return _section("What is inside", markdown_table(("part", "what", "MB"), sized, left=2))


def _times(plan: BuildPlan) -> str:
    here = f"{Path.cwd()}/"
    rows, told = [], {training["stage"] for training in trainings_of(plan.made)}
    for stage in STAGES:
        if stage not in ("card", "publish"):
            commands = [f"`{' '.join(command).replace(here, '')}`" for command in stage_commands(plan, stage)]
            seconds = plan.spent(stage)
            unknown = "see below" if stage in told else "not recorded"
            minutes = unknown if seconds is None else f"{seconds / 60:.1f}"
            rows.append((stage, ", ".join(commands), minutes))
    rows.append(("together, without those below", "", f"{sum(plan.seconds().values()) / 60:.0f}"))
    return _section(
        "How it was made",
        f"`{' '.join(_whole_build(plan)).replace(here, '')}`, by these stages:",
        markdown_table(("stage", "command", "minutes"), rows, left=2),
        f"Wall time over all the runs that a stage took; the last of them on {machine_name()}.",
        *([_STARTED] if plan.start else []),
    )


def _trainings(folder: Path) -> str:
    """Tell of every training of the pipeline's networks, also those of the pipelines that it was started from."""
    rows = [
        (
            training["stage"],
            f"{training['steps']}",
            f"{training['rate']:g}",
            f"{training['minutes']:.1f}",
            training.get("machine", "not recorded"),
        )
        for training in trainings_of(folder)
    ]
    return _section(
        "How its networks were trained",
        "One after the other, from nothing. A build can start from another's pipeline (`--start`); then the first of "
        "these trainings are that one's. `base` and `longer` train the UNet.",
        markdown_table(("stage", "steps", "highest rate", "minutes", "machine"), rows),
    )


def _judge(folder: Path) -> str:
    """Tell how often the judge is right about subjects and styles that it never saw."""
    accuracy = json.loads((folder / JUDGE_FOLDER / "config.json").read_text(encoding="utf-8"))["accuracy"]
    rows = [
        (question, case, f"{found['as drawn']:.2f}", f"{found['worn']:.2f}")
        for question, cases in accuracy.items()
        for case, found in cases.items()
    ]
    return _section(
        "How far the judge can be trusted",
        "Shares of right answers on drawings of the held-out subjects and styles: clean, as drawn, and worn, degraded "
        "as the base's own images are. The near misses (one detail changed, another style of the same description) had "
        "no part in its calibration. By style: `judge/report.csv`.",
        markdown_table(("question", "the test image shows", "as drawn", "worn"), rows, left=2),
    )


def _hypernet(folder: Path) -> str:
    """Tell the merging loss on the validation pairs, and what was trained with which options."""
    record = load_predictor(folder / HYPERNET_FILE).training
    loss = record["loss"]
    joint, outweighed = f"joint term {loss['joint']}", []
    if loss["joint"] != "none":
        outweighed.append(
            "The joint term, which this loss is without, weighs more in the training: some of this loss is given up "
            "for images that show both."
        )
        joint += f" (weight {loss['joint_weight']:g}, style {loss['joint_style']:g})"
    found = record["validation"]
    kept = found[record["keep"]]
    losses = {f"hypernetwork, step {kept['step']} of {record['steps']}": kept["content"] + kept["style"]}
    losses |= found["references"]
    return _section(
        "What the hypernetwork learned",
        f"{record['steps']} steps of {record['batch_pairs']} pairs, learned layers {', '.join(record['learned'])}, the "
        f"others by {record['kv_rule']}, λ {loss['weight']}, {joint}, seed {record['seed']}; curves in "
        f"`hypernet.png`. Content and style loss of Eq. 3 on the {record['validation_pairs']} validation pairs:",
        markdown_table(("merge", "loss"), [(name, f"{value:.4f}") for name, value in losses.items()]),
        *outweighed,
    )


def _section(title: str, *paragraphs: str) -> str:
    return "\n\n".join([f"## {title}", *paragraphs]) + "\n"


def _size(*places: Path) -> str:
    """Return the megabytes of files and folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f}"
