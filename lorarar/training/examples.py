"""Encode the training examples of one LoRA once, and draw the batch of each step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorarar.base.components import (
    Components,
    Condition,
    encode_images,
    encode_prompts,
    load_image,
    require_prompts,
)
from lorarar.errors import InputError
from lorarar.files import file_digest

ENCODED_PIXELS = 1024**2  # at once: SDXL's VAE needs 2.7 GB for one image of 1024×1024 (lorarar train --plan)
MAX_ENCODED = 4  # images at once, small ones too


@runtime_checkable
class Reference(Protocol):
    """What a LoRA learns: images, and the prompt that stands for them. A dataset's Content and Style are such."""

    @property
    def images(self) -> tuple[Path, ...]: ...

    @property
    def prompt(self) -> str: ...


@dataclass(frozen=True)
class Concept:
    """A Reference of no dataset."""

    images: tuple[Path, ...]
    prompt: str


@dataclass(frozen=True)
class Batch:
    """The rows of one step: examples, their prompts' conditions, noise and timesteps."""

    latents: Float[Tensor, "b c y x"]
    condition: Condition
    noise: Float[Tensor, "b c y x"]
    timesteps: Int[Tensor, " b"]
    chances: Float[Tensor, " b"]  # uniform in [0, 1), for what else is left to chance


@dataclass(frozen=True)
class Examples:
    """The latents by concept and one row of conditions for each concept, on the device that trains."""

    latents: tuple[Float[Tensor, "_ c y x"], ...]
    condition: Condition
    stream: int  # tells the draws of one LoRA from another's of the same seed

    def draw(self, step: int, rows: Sequence[int], batch: int, seed: int, timesteps: int) -> Batch:
        """Return some rows of a step's batch of `batch` examples; `timesteps` is the length of the noise schedule.

        Row k of the training's k-th example belongs to concept k modulo their number, so concepts take equal turns
        at any batch size. Every process draws the whole batch, by seed and step alone, and takes its rows: the
        result depends neither on the number of processes nor on where a training was resumed.
        """
        generator = seeded_generator(seed, self.stream, step + 1)
        concepts = [(step * batch + row) % len(self.latents) for row in range(batch)]
        choices = torch.rand(batch, generator=generator)
        noise = torch.randn((batch, *self.latents[0].shape[1:]), generator=generator)
        times = torch.randint(timesteps, (batch,), generator=generator)
        chances = torch.rand(batch, generator=generator)
        chosen = [self.latents[c][int(choices[row] * len(self.latents[c]))] for row, c in enumerate(concepts)]
        device = self.latents[0].device
        index = torch.tensor(rows)
        return Batch(
            torch.stack([chosen[row] for row in rows]),
            self.condition.take(torch.tensor([concepts[row] for row in rows], device=device)),
            noise[index].to(device),
            times[index].to(device),
            chances[index],
        )


def seeded_generator(seed: int, stream: int, step: int) -> torch.Generator:
    """Make independent random numbers for each (seed, stream, step), on the CPU: they are the same anywhere."""
    state = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def encode_files(components: Components, images: Sequence[Path], flip: bool = False) -> Float[Tensor, "n c y x"]:
    """Encode image files as latents, the posterior's mode; `flip` adds their mirror images."""
    pixels = torch.stack([load_image(path, components.resolution) for path in images])
    if flip:
        pixels = torch.cat([pixels, pixels.flip(-1)])
    return torch.cat([encode_images(components, part) for part in pixels.split(encoded_at_once(components.resolution))])


def encoded_at_once(side: int) -> int:
    """Return how many images of `side` × `side` pixels are encoded at once."""
    return max(1, min(MAX_ENCODED, ENCODED_PIXELS // side**2))


def encode_concepts(components: Components, concepts: Sequence[Reference], flip: bool = False) -> Examples:
    """Encode every image and prompt once. A latent is the posterior's mode; `flip` adds the images' mirror images.

    Raises InputError for a concept without images or prompt, or an image that can't be read.
    """
    prompts = [concept.prompt for concept in concepts]
    require_prompts(prompts)
    latents = []
    for concept in concepts:
        if not concept.images:
            raise InputError(f"there are no images for {concept.prompt!r}; give at least one")
        latents.append(encode_files(components, concept.images, flip))
    stream = int(digest_references(concepts)[:16], 16)
    return Examples(tuple(latents), encode_prompts(components, prompts), stream)


def digest_references(references: Sequence[Reference]) -> str:
    """Return a SHA-256 of each reference's prompt and image files, wherever they lie."""
    learned = [[reference.prompt, *map(file_digest, reference.images)] for reference in references]
    return hashlib.sha256(json.dumps(learned).encode()).hexdigest()
