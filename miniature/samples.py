"""Draw one image for each of many captions, and lay pictures side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Shaped
from PIL import Image

from lorarar.toolchains import quiet_toolchains

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

    from lorarar.evaluation.generate import Sampling


def draw_captions(
    pipeline: StableDiffusionXLPipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    how: Sampling,
    at_once: int,
) -> Iterator[Image.Image]:
    """Draw an image of each caption from the noise of its seed, `at_once` at a time."""
    for first in range(0, len(captions), at_once):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[first : first + at_once]]
        with quiet_toolchains():
            yield from pipeline(
                list(captions[first : first + at_once]),
                num_inference_steps=how.steps,
                guidance_scale=how.guidance,
                guidance_rescale=how.guidance_rescale,
                generator=generators,
            ).images


def sheet(parts: Sequence[Shaped[np.ndarray, "_ side side 3"]], columns: int) -> Image.Image:
    """Lay rows of pictures under each other, as many as fit, one part after the other."""
    rows = [part[first : first + columns] for part in parts for first in range(0, len(part), columns)]
    side = rows[0].shape[1]
    made = Image.new("RGB", (columns * side, len(rows) * side), "white")
    for y, row in enumerate(rows):
        for x, one in enumerate(row):
            made.paste(Image.fromarray(one), (x * side, y * side))
    return made
