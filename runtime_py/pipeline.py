"""Text to image with a bundle alone: text encoders, the UNet in the scheduler's loop, the VAE's decoder.

Between the artifacts there is numpy alone, and the apps take the same steps in the same order. Unless components are
kept, one is in memory at a time; the UNet stays loaded for the whole loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from lorarar.composed import ComposedStart
from lorarar.errors import InputError
from lorarar.files import check_text
from runtime_py.backends import Runners
from runtime_py.condition import ConditionReader
from runtime_py.guidance import Guided, Inputs
from runtime_py.noise import MAX_SEED, normal_noise
from runtime_py.scheduler import Latents, SchedulerSettings, make_scheduler
from runtime_py.stages import OnStage, timed
from runtime_py.tiles import decode_in_tiles

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle

OnStep = Callable[[int, int, Latents], None]
"""Called after each denoising step with the steps done, their number, and the latents."""
Pixels = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Request:
    """One image to draw.

    Raises InputError when a number is out of its range or no number, for what is no text of Unicode's, and without
    guidance for a negative prompt and for `guidance_without_lora`, which guidance alone looks at.
    """

    prompt: str
    seed: int = 0
    steps: int = 25
    guidance: float = 4.0  # classifier-free guidance; 1 turns it off
    negative: str | None = None  # None: what the base was made for, zeros or the empty prompt
    guidance_without_lora: bool = False  # what guidance compares with is predicted without LoRAs (ACFG)
    composed: ComposedStart | None = None  # the first steps with each LoRA alone
    guidance_rescale: float = 0.0  # how much of what guidance adds to the spread is taken off, 0 to 1

    def __post_init__(self) -> None:
        if not (isinstance(self.seed, (int, np.integer)) and 0 <= self.seed <= MAX_SEED):
            raise InputError(f"`seed` is {self.seed!r}; valid are 0 to {MAX_SEED}")
        if not (isinstance(self.steps, (int, np.integer)) and self.steps >= 1):
            raise InputError(f"`steps` is {self.steps!r}; give a whole number of 1 or more")
        if not (isinstance(self.guidance, (int, float, np.number)) and 1 <= self.guidance < np.inf):
            raise InputError(f"`guidance` is {self.guidance!r}; give 1 (off) or more, 3 to 7 are usual")
        if not (isinstance(self.guidance_rescale, (int, float, np.number)) and 0 <= self.guidance_rescale <= 1):
            raise InputError(f"`guidance_rescale` is {self.guidance_rescale!r}; give 0 (off) to 1, 0.7 is usual")
        if self.negative is not None and self.guidance == 1:
            raise InputError("`negative` means nothing without guidance; give a `guidance` above 1, or leave it out")
        if self.guidance_without_lora and self.guidance == 1:
            raise InputError("`guidance_without_lora` means nothing without guidance; give a `guidance` above 1")
        if not isinstance(self.composed, ComposedStart | None):
            raise InputError(f"`composed` is {self.composed!r}; give a ComposedStart, or leave it out")
        texts = {"prompt": self.prompt, "negative": self.negative or ""}
        if self.composed is not None:
            texts |= {"subject": self.composed.subject, "subject_class": self.composed.subject_class}
        for name, text in texts.items():
            check_text(name, text)
        if self.composed is not None:
            self.composed.prompts(self.prompt)


@dataclass
class Drawn:
    """An image, the latents it was decoded from, and where the time went."""

    pixels: Float[np.ndarray, "1 3 h w"]  # in [0, 1]
    latents: Float[np.ndarray, "1 4 y x"]
    seconds: dict[str, float]  # by stage: text, load the UNet, steps, decode
    notes: tuple[str, ...] = ()  # what did not fit, one sentence each

    @property
    def image(self) -> Pixels:
        """The image as bytes, rows first."""
        return np.rint(self.pixels[0].transpose(1, 2, 0) * 255).astype(np.uint8)


class NotFinite(InputError):
    """An image with NaN or ∞ in it, which some bundle's precision or some strengths give."""


def rescale_of(facts: Mapping[str, Any]) -> float:
    """Return the share by which a manifest's pipeline or golden image rescales; bundles from before have none."""
    return float(facts.get("guidance_rescale", 0))


class Pipeline:
    """A bundle that draws. Its `runners` say whether components stay loaded from one image to the next.

    Raises InputError for a bundle that holds no whole pipeline.
    """

    def __init__(self, bundle: Bundle, runners: Runners | None = None) -> None:
        if "pipeline" not in bundle.manifest:
            parts = ", ".join(bundle.manifest["components"])
            raise InputError(
                f"{bundle.path}: this bundle can't draw, it holds {parts} alone; make a whole one with  "
                "lorarar export pipeline"
            )
        self.bundle = bundle
        self.facts: Mapping[str, Any] = bundle.manifest["pipeline"]
        self._schedule = SchedulerSettings(**self.facts["scheduler"])
        self._runner = runners or Runners(bundle)
        self._reader = ConditionReader(bundle, self._runner)

    def request(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
        guidance_without_lora: bool = False,
        composed: ComposedStart | None = None,
        guidance_rescale: float | None = None,
    ) -> Request:
        """Make a request with the bundle's own number where one is None.

        Raises InputError as `Request`, and for more steps than the bundle's schedule can have.
        """
        steps = int(self.facts["steps"]) if steps is None else steps
        guidance = float(self.facts["guidance"]) if guidance is None else guidance
        if guidance_rescale is None:
            guidance_rescale = rescale_of(self.facts)
        request = Request(prompt, seed, steps, guidance, negative, guidance_without_lora, composed, guidance_rescale)
        make_scheduler(self._schedule, request.steps)
        return request

    def draw(
        self,
        request: Request,
        inputs: Inputs,
        on_stage: OnStage = lambda *_: None,
        on_step: OnStep = lambda *_: None,
    ) -> list[Drawn]:
        """Draw one image for each blend of the inputs, all from the same noise; as many at once as the UNet takes rows.

        `on_step` is told the first image's latents. Raises InputError for a number of steps that the schedule can't
        have.
        """
        scheduler = make_scheduler(self._schedule, request.steps)
        seconds: dict[str, float] = {}
        with timed(seconds, "text"):
            told = self._reader.read(request, inputs, on_stage)
        with timed(seconds, "load the UNet"):
            unet = self._runner("unet")
        # What overflows is told of below, in a sentence.
        with timed(seconds, "steps"), np.errstate(over="ignore", invalid="ignore"):
            predict = Guided(unet, self.bundle.component("unet"), inputs, told, request)
            noise = normal_noise((1, *predict.latent_shape), int(request.seed))
            latents = scheduler.start(np.repeat(noise, len(inputs.blends), axis=0))
            for i, time in enumerate(scheduler.timesteps):
                on_stage("drawing", i, request.steps)
                latents = scheduler.step(predict(scheduler.scale(latents, i), float(time), i), i, latents)
                on_step(i + 1, request.steps, latents[:1])
        del unet, predict  # the decoder is loaded next: a phone may not hold both
        self._require_finite("unet", latents)
        on_stage("decoding", 0, 1)
        with timed(seconds, "decode"):
            decoder, tile = self._runner("vae_decoder"), self.bundle.component("vae_decoder").input_width("latents")

            def decode(part: Latents) -> Float[np.ndarray, "1 3 h w"]:
                return decoder.run({"latents": part})["image"]

            pictures = [decode_in_tiles(decode, one[None].astype(np.float32), tile) for one in latents]
        self._require_finite("vae_decoder", *pictures)
        return [
            Drawn(picture.astype(np.float32), one[None], dict(seconds), told.notes)
            for picture, one in zip(pictures, latents, strict=True)
        ]

    def _require_finite(self, name: str, *values: np.ndarray) -> None:
        """Refuse what a component made with NaN or ∞. The decoder's own clamp makes a picture of some such latents."""
        if not all(np.isfinite(value).all() for value in values):
            mend = f"the {name} overflows in this bundle's precision; export it in fp32, which all targets but QNN have"
            if not self.bundle.component(name).is_half:
                mend = "use smaller strengths or less guidance"
            raise NotFinite(f"the image is not finite: {mend}")
