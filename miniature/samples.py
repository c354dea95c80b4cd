"""Sample grids of the miniature: what its base draws, to be looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from lorarar.base.names import GUIDANCE, MINIATURE, STEPS
from lorarar.files import atomic_file
from lorarar.toolchains import quiet_toolchains
from miniature.catalogue import fresh_subject
from miniature.population import caption
from miniature.styles import FAMILIES
from miniature.subjects import KINDS

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

COLUMNS = 9


def sample_prompts(seed: int) -> list[str]:
    """Return a plain subject of every kind, then one in every family of styles."""
    rng = np.random.default_rng((seed, 3))
    kinds = list(KINDS)
    styles = [None] * len(kinds) + [family.description for family in FAMILIES.values()]
    return [caption(fresh_subject(rng, kinds[number % len(kinds)]), style=style) for number, style in enumerate(styles)]


def write_samples(pipeline: StableDiffusionXLPipeline, path: Path, seed: int) -> None:
    """Draw a grid of one image a prompt, and write the prompts as .json beside it."""
    prompts = sample_prompts(seed)
    images: list[Image.Image] = []
    for first in range(0, len(prompts), COLUMNS):
        batch = prompts[first : first + COLUMNS]
        generators = [torch.Generator().manual_seed(seed + first + number) for number in range(len(batch))]
        with quiet_toolchains():
            steps, guidance = STEPS[MINIATURE], GUIDANCE[MINIATURE]
            drawn = pipeline(batch, num_inference_steps=steps, guidance_scale=guidance, generator=generators)
        images += drawn.images
    side = images[0].width
    rows = -(-len(images) // COLUMNS)
    grid = Image.new("RGB", (COLUMNS * side, rows * side), "white")
    for number, image in enumerate(images):
        grid.paste(image, (number % COLUMNS * side, number // COLUMNS * side))
    with atomic_file(path) as temporary:
        grid.save(temporary, format="PNG")
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(prompts, indent=1) + "\n", encoding="utf-8")
