"""The miniature's model card: what it is, how each part was made, how long that took, what it measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorarar.base.names import HYPERNET_FILE, JUDGE_FOLDER
from lorarar.files import atomic_file
from miniature.stages import Plan

FRONT = """# The miniature

An SDXL-shaped pipeline, small enough for two CPU cores, trained from nothing on drawings that `miniature`
makes, with the LoRAs and the hypernetwork of the paper's method. It stands in for SDXL and KOALA where their weights
can't be had: tests, the quickstart, the demo apps.

```python
from diffusers import StableDiffusionXLPipeline

pipeline = StableDiffusionXLPipeline.from_pretrained("models/miniature")
pipeline("a red dog with white spots in watercolor painting style", num_inference_steps=25, guidance_scale=2).images[0]
```

![samples](samples.png)

Each image above has the prompt of its place in `samples.json`. All weights, images and names are of this project; no
picture, weight or text of anyone else is in them.
"""


def write_card(plan: Plan, commands: dict[str, str]) -> Path:
    """Write README.md beside the pipeline; `commands` maps a stage to the command that runs it alone."""
    path = plan.made / "README.md"
    sections = [FRONT, _parts(plan.made), _times(plan, commands), _judge(plan.made), _hypernet(plan.made)]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(sections), encoding="utf-8")
    return path


def _parts(folder: Path) -> str:
    unet = _json(folder / "unet" / "config.json")
    rows = [
        "## What is inside",
        "",
        "| part | what | MB |",
        "|---|---|---|",
        f"| `unet` | KOALA's shape: widths {unet['block_out_channels']}, no mid block, text_time conditioning | "
        f"{_size(folder / 'unet')} |",
        f"| `text_encoder`, `text_encoder_2` | CLIP text encoders, trained with the UNet | "
        f"{_size(folder / 'text_encoder', folder / 'text_encoder_2')} |",
        f"| `vae` | 96×96 pixels to 24×24 latents | {_size(folder / 'vae')} |",
        f"| `dataset` | 30 subjects, 26 styles, their images and LoRAs, three splits | {_size(folder / 'dataset')} |",
        f"| `hypernet.safetensors` | LoRA.rar's hypernetwork; its metadata has every option | "
        f"{_size(folder / HYPERNET_FILE)} |",
        f"| `judge` | the verifier; its `config.json` has its accuracies | {_size(folder / 'judge')} |",
        f"| all | | {_size(folder)} |",
        "",
    ]
    return "\n".join(rows)


def _times(plan: Plan, commands: dict[str, str]) -> str:
    seconds = plan.seconds()
    rows = [
        "## How it was made",
        "",
        f"`lorarar miniature build --seed {plan.seed}`, by these stages:",
        "",
        "| stage | command | minutes |",
        "|---|---|---|",
    ]
    for stage, command in commands.items():
        minutes = f"{seconds[stage] / 60:.1f}" if stage in seconds else "not recorded"
        rows.append(f"| {stage} | `{command}` | {minutes} |")
    rows += [f"| recorded in all | | {sum(seconds.values()) / 60:.0f} |", ""]
    return "\n".join([*rows, "Wall time, over all the runs that a stage took.", ""])


def _judge(folder: Path) -> str:
    """How often the judge is right about subjects and styles that it never saw."""
    accuracy = _json(folder / JUDGE_FOLDER / "config.json")["accuracy"]
    rows = [
        "## How far the judge can be trusted",
        "",
        "Shares of right answers on drawings of the held-out subjects and styles, as drawn and as worn as the base's "
        "own images are. The near misses (one detail changed, another style of the same description) had no part in "
        "its calibration. By style: `judge/report.csv`.",
        "",
        "| question | the test image shows | as drawn | worn |",
        "|---|---|---|---|",
    ]
    for question, cases in accuracy.items():
        rows += [
            f"| {question} | {case} | {found['as drawn']:.2f} | {found['worn']:.2f} |" for case, found in cases.items()
        ]
    return "\n".join([*rows, ""])


def _hypernet(folder: Path) -> str:
    """The merging loss on the validation pairs, and what was trained with which options."""
    from lorarar.hypernet.checkpoints import load_hypernet

    record = load_hypernet(folder / HYPERNET_FILE).training
    found = record["validation"]
    losses = [
        (
            f"hypernetwork, step {found['best']['step']} of {record['steps']}",
            found["best"]["content"] + found["best"]["style"],
        )
    ]
    losses += list(found["references"].items())
    rows = [
        "## What the hypernetwork learned",
        "",
        f"{record['steps']} steps of {record['batch_pairs']} pairs, learned layers {', '.join(record['learned'])}, the "
        f"others by {record['kv_rule']}, λ {record['loss']['weight']}, seed {record['seed']}; curves in "
        f"`hypernet.png`. Content and style loss of Eq. 3 on the {record['validation_pairs']} validation pairs:",
        "",
        "| merge | loss |",
        "|---|---|",
        *(f"| {name} | {loss:.4f} |" for name, loss in losses),
        "",
    ]
    return "\n".join(rows)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _size(*places: Path) -> str:
    """Megabytes of files and folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f}"
