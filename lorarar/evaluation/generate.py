"""Draw a pair's images by the base's own diffusers pipeline, from the same noise for every method, and keep them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorarar.base.components import Components, freeze
from lorarar.base.names import DTYPES
from lorarar.base.sources import open_pipeline
from lorarar.errors import InputError
from lorarar.evaluation.results import MergeFacts
from lorarar.files import atomic_file, package_schema, read_json
from lorarar.merging.klora import BeforeStep
from lorarar.toolchains import quiet_toolchains
from lorarar.training.dataset import pair_folder, safe_name

if TYPE_CHECKING:
    from PIL.Image import Image

    from lorarar.evaluation.settings import EvaluationSettings

PAIR_FILE = "pair.json"
_PAIR_SCHEMA = package_schema(__package__, "pair.schema.json")
PutOn = Callable[[torch.nn.Module], AbstractContextManager[BeforeStep]]
"""Puts a LoRA, or what changes from step to step, on a UNet while the context lasts; then the UNet is exactly the old
one. The context gives a function that is called before each step.
"""


@dataclass(frozen=True)
class Sampling:
    """The settings of drawing, a part of what a kept image is valid for."""

    base: str
    steps: int
    guidance: float  # classifier-free guidance; 1 turns it off
    seed: int
    dtype: str = "fp32"
    guidance_rescale: float = 0.0  # the share of what guidance adds to the spread that is taken off

    @classmethod
    def of(cls, base: str, settings: EvaluationSettings, dtype: str = "fp32") -> Sampling:
        """Return how an evaluation's settings draw with a base."""
        return cls(base, settings.steps, settings.guidance, settings.seed, dtype, settings.guidance_rescale)


@dataclass
class Sampler:
    """A base's pipeline, ready to draw."""

    pipeline: Any
    sampling: Sampling
    batch: int

    @classmethod
    def load(cls, sampling: Sampling, device: str, batch: int) -> Sampler:
        """Open a base's pipeline on a device. Raises InputError when the base can't be had."""
        pipeline = open_pipeline(sampling.base, False, getattr(torch, DTYPES[sampling.dtype]))
        freeze(pipeline, device)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, sampling, batch)

    def components(self) -> Components:
        """Return the same networks as training uses them, for images of the side that the pipeline draws."""
        return Components.of(self.pipeline, self.sampling.base)

    def draw(self, put_on: PutOn, prompt: str, seeds: Sequence[int]) -> Iterator[Image]:
        """Draw one image a seed, in order, a batch at a time; a seed gives the same noise in any method and batch."""
        with put_on(self.pipeline.unet) as on_step:
            for first in range(0, len(seeds), self.batch):
                yield from self._batch(on_step, prompt, seeds[first : first + self.batch])

    def _batch(self, on_step: BeforeStep, prompt: str, seeds: Sequence[int]) -> list[Image]:
        # On the CPU, so that every device starts from the same noise.
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

        def before_next(pipeline: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if step + 1 < pipeline.num_timesteps:
                on_step(step + 1, pipeline.num_timesteps)
                return kwargs
            # The VAE is in fp32 whatever the UNet's dtype, and the pipeline does not cast.
            return {"latents": kwargs["latents"].to(pipeline.vae.dtype)}

        on_step(0, self.sampling.steps)
        with quiet_toolchains():
            return self.pipeline(
                prompt=[prompt] * len(seeds),
                num_inference_steps=self.sampling.steps,
                guidance_scale=self.sampling.guidance,
                guidance_rescale=self.sampling.guidance_rescale,
                generator=generators,
                callback_on_step_end=before_next,
            ).images


def image_seeds(seed: int, content: str, style: str, images: int) -> list[int]:
    """Return the seeds of a pair's images: the same for every method, others for every pair.

    The seeds of more images begin with those of fewer.
    """
    return [
        int.from_bytes(hashlib.sha256(f"{seed}/{content}/{style}/{index}".encode()).digest()[:7], "big")
        for index in range(images)
    ]


def digest_of(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True)
class PairFolder:
    """The kept images of one method and pair, `00.png` …, and `pair.json`: what they are valid for, and the merge."""

    folder: Path
    facts: Mapping[str, Any]  # everything that the images depend on, as JSON

    @classmethod
    def of(cls, run: Path, method: str, content: str, style: str, facts: Mapping[str, Any]) -> PairFolder:
        """Return the folder of a pair in a run. Raises InputError when it holds images of other settings."""
        place = cls(pair_folder(run / "images" / safe_name(method), content, style), facts)
        kept = place._kept()
        if kept is not None and kept["digest"] != digest_of(facts):
            old = kept["facts"]
            changed = [key for key in facts if old.get(key) != facts[key]]
            raise InputError(
                f"{place.folder} holds images made with other settings (changed: {', '.join(changed) or 'unknown'}); "
                "choose another output folder, or remove that one to make them again"
            )
        return place

    def image(self, index: int) -> Path:
        """Return where an image lies, made or not."""
        return self.folder / f"{index:02d}.png"

    def missing(self, images: int) -> list[int]:
        """Return the numbers of the images that have yet to be made: all of them where nothing says what those were."""
        if not (self.folder / PAIR_FILE).is_file():
            return list(range(images))
        return [index for index in range(images) if not self.image(index).is_file()]

    def merge_facts(self) -> MergeFacts | None:
        """Return what the merge cost when it was made; None before."""
        kept = self._kept()
        return None if kept is None else MergeFacts(**kept["merge"])

    def keep_merge(self, merge: MergeFacts) -> None:
        """Write `pair.json`; from then on the folder is for these settings only."""
        document = {"digest": digest_of(self.facts), "facts": dict(self.facts), "merge": asdict(merge)}
        with atomic_file(self.folder / PAIR_FILE) as temporary:
            temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def keep_image(self, index: int, image: Image) -> None:
        """Write an image, whole or not at all."""
        with atomic_file(self.image(index)) as temporary:
            image.save(temporary)

    def _kept(self) -> dict[str, Any] | None:
        path = self.folder / PAIR_FILE
        if not path.is_file():
            return None
        mend = f"remove {self.folder} to make its images again"
        kept: dict[str, Any] = read_json(path, what="the notes of a pair's images", mend=mend, schema=_PAIR_SCHEMA)
        return kept
