"""The miniature's model card: what it is, how each part was made, how long that took, what it measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorarar.bases import HYPERNET_FILE
from lorarar.cli import atomic_file
from lorarar.miniature.stages import Plan

FRONT = """# The miniature

An SDXL-shaped pipeline, small enough for two CPU cores, trained from nothing on drawings that `lorarar.miniature`
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
    """Write README.md in the output folder; `commands` maps a stage to the command that runs it alone."""
    path = plan.output / "README.md"
    sections = [FRONT, _parts(plan.output), _times(plan, commands)]
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
        f"`python -m lorarar.miniature build --seed {plan.seed}`, by these stages:",
        "",
        "| stage | command | minutes |",
        "|---|---|---|",
    ]
    rows += [f"| {stage} | `{command}` | {seconds.get(stage, 0) / 60:.1f} |" for stage, command in commands.items()]
    total = sum(seconds.get(stage, 0) for stage in commands) / 60
    rows += [f"| all | | {total:.0f} |", ""]
    return "\n".join(rows)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _size(*places: Path) -> str:
    """Megabytes of files and folders."""
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f}"
