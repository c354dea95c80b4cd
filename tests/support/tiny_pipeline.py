"""A tiny SDXL pipeline and a tiny dataset on disk, for tests of training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lorarar.base.names import load_layout
from lorarar.base.untrained import Sizes, build_tokenizer, new_pipeline
from lorarar.hypernet.checkpoints import save_hypernet
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import Layout
from lorarar.lora import write_lora

CAPTIONS = ("a sks dog", "a sks cat in watercolor style", "a house in line drawing style", "a vase in neon glow style")
CLASSES = ("dog", "cat", "vase", "house")
DESCRIPTIONS = ("watercolor", "line drawing", "neon glow", "mosaic")


def tiny_sizes() -> Sizes:
    """Networks that train a step in milliseconds; images of 32×32. 72 attention linears."""
    return Sizes(latent=8, unet=(16, 32, 48), head=16, vae=(16, 16, 16), text=(32, 48), text_layers=2, time=8)


def save_tiny_pipeline(folder: Path) -> None:
    """An untrained tiny pipeline in diffusers format."""
    new_pipeline(tiny_sizes(), build_tokenizer(CAPTIONS), 0).save_pretrained(folder)


def save_shallow_pipeline(folder: Path) -> None:
    """The tiny pipeline with one transformer block of each width: converters take as long as a graph has operations."""
    pipeline = new_pipeline(tiny_sizes(), build_tokenizer(CAPTIONS), 0)
    torch.manual_seed(0)
    shallow = {"up_block_types": ["UpBlock2D"] * 3, "transformer_layers_per_block": 1}
    pipeline.register_modules(unet=type(pipeline.unet).from_config({**pipeline.unet.config, **shallow}))
    pipeline.save_pretrained(folder)


def save_image(path: Path, seed: int, size: tuple[int, int] = (32, 32)) -> None:
    """A seeded PNG of large coloured patches (width × height)."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(path)


def save_tiny_dataset(
    folder: Path, contents: int = 4, styles: int = 4, images: int = 2, seed: int = 0, layout: Layout | None = None
) -> Path:
    """A valid dataset of 32×32 images; returns the folder. A `layout` adds random LoRA files of rank 2 for it.

    Contents are `content_0` …, with `images` images each, styles `style_0` …, with one. The split `paper` gives the
    last of each to test, the last but one to validation and the others to train.
    """
    from tiny_world import random_lora

    raw: dict = {"schema_version": 1, "name": "tiny", "resolution": 32, "contents": [], "styles": []}
    for kind, count, each in (("content", contents, images), ("style", styles, 1)):
        for number in range(count):
            name = f"{kind}_{number}"
            paths = [f"{kind}s/{name}/{index}.png" for index in range(each)]
            for index, path in enumerate(paths):
                save_image(folder / path, seed=[seed, kind == "style", number, index])
            own = (
                {"class": CLASSES[number % 4], "token": "sks"}
                if kind == "content"
                else {"description": DESCRIPTIONS[number % 4], "image_class": CLASSES[number % 4]}
            )
            lora = f"loras/{name}.safetensors"
            raw[f"{kind}s"].append({"name": name, "group": f"group_{number % 2}", "images": paths, "lora": lora, **own})
            if layout is not None:
                (folder / "loras").mkdir(exist_ok=True)
                write_lora(
                    random_lora(layout, (2,), seed * 1000 + number + 500 * (kind == "style"), 0.1), folder / lora
                )
    raw["splits"] = {"paper": {"contents": parts("content", contents), "styles": parts("style", styles)}}
    (folder / "dataset.json").write_text(json.dumps(raw, indent=1))
    return folder


def save_tiny_evaluation(folder: Path, sides: Sequence[str], hypernets: Sequence[str]) -> Path:
    """What an evaluation needs: `base`, `data` with two test entries on the named sides (contents, styles), and
    hypernetworks of these names with random weights; returns the folder.
    """
    save_tiny_pipeline(folder / "base")
    layout = load_layout(str(folder / "base"))
    described = save_tiny_dataset(folder / "data", layout=layout) / "dataset.json"
    raw = json.loads(described.read_text())
    for side in sides:
        split = raw["splits"]["paper"][side]
        split["test"] = [split["train"].pop(), *split["test"]]
    described.write_text(json.dumps(raw))
    widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
    for seed, name in enumerate(hypernets):
        save_hypernet(Hypernetwork.untrained(HypernetConfig(widths, hidden=8), seed), folder / f"{name}.safetensors")
    return folder


def parts(kind: str, count: int) -> dict[str, list[str]]:
    """The last name to test, the last but one to validation, the others to train."""
    names = [f"{kind}_{number}" for number in range(count)]
    return {"train": names[:-2], "validation": names[-2:-1], "test": names[-1:]}
