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

from lorarar.errors import InputError
from lorarar.layout import Adapter, fixed, pack, rank_sizes
from lorarar.lora import LoRA
from runtime_py.backends import Runner, Runners
from runtime_py.noise import MAX_SEED, normal_noise
from runtime_py.scheduler import Latents, SchedulerSettings, make_scheduler
from runtime_py.stages import OnStage, timed
from runtime_py.tokens import ClipTokenizer

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle

OnStep = Callable[[int, int, Latents], None]
"""Called after each denoising step with the steps done, their number, and the latents."""
Pixels = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Request:
    """One image to draw. Raises InputError when a number is out of its range."""

    prompt: str
    seed: int = 0
    steps: int = 25
    guidance: float = 4.0  # classifier-free guidance; 1 turns it off and halves the work
    negative: str | None = None  # None: what the base was made for, zeros or the empty prompt

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"`seed` is {self.seed}; valid are 0 to {MAX_SEED}")
        if not (np.isfinite(self.guidance) and self.guidance >= 1):
            raise InputError(f"`guidance` is {self.guidance}; give 1 (off) or more, 3 to 7 are usual")


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


class Pipeline:
    """A bundle that draws. Its `runners` say whether components stay loaded from one image to the next.

    Raises InputError for a bundle that holds no whole pipeline.
    """

    def __init__(self, bundle: Bundle, runners: Runners | None = None) -> None:
        if "pipeline" not in bundle.manifest:
            parts = ", ".join(bundle.manifest["components"])
            raise InputError(
                f"{bundle.path}: this bundle can't draw, it holds {parts} alone; make a whole one with  "
                "python -m export.pipeline"
            )
        self.bundle = bundle
        self.facts: Mapping[str, Any] = bundle.manifest["pipeline"]
        self._runner = runners or Runners(bundle)
        self._tokenizers: dict[str, ClipTokenizer] = {}

    def request(
        self,
        prompt: str,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        negative: str | None = None,
    ) -> Request:
        """Make a request with the bundle's own number where one is None. Raises InputError as `Request`."""
        steps = int(self.facts["steps"]) if steps is None else steps
        guidance = float(self.facts["guidance"]) if guidance is None else guidance
        return Request(prompt, seed, steps, guidance, negative)

    def adapter(self, lora: LoRA | None) -> Adapter:
        """Return a LoRA as the UNet's inputs, by name; zeros without one.

        Raises InputError for a LoRA that does not fit the base or the rank, and for a UNet that takes none.
        """
        specs = [spec for spec in self.bundle.component("unet").inputs if spec.name.startswith("adapter_")]
        sizes = rank_sizes(self.bundle.rank)
        if lora is None:
            return {spec.name: np.zeros(fixed(spec.shape, sizes), spec.dtype) for spec in specs}
        if not specs:
            raise InputError(
                f"{self.bundle.path}: its UNet takes no adapter, a LoRA is fused into it; export it without"
            )
        packed = pack(lora, self.bundle.layout, sizes["merged_rank"], specs[0].dtype).adapter
        return {f"adapter_{name}": tensor for name, tensor in packed.items()}

    def draw(
        self,
        request: Request,
        adapter: Adapter,
        on_stage: OnStage = lambda *_: None,
        on_step: OnStep = lambda *_: None,
    ) -> Drawn:
        """Draw one image. Raises InputError for a number of steps that the schedule can't have."""
        scheduler = make_scheduler(SchedulerSettings(**self.facts["scheduler"]), request.steps)
        seconds: dict[str, float] = {}
        with timed(seconds, "text"):
            told, notes = self._told(request, on_stage)
        with timed(seconds, "load the UNet"):
            unet = self._runner("unet")
        with timed(seconds, "steps"):
            sample = next(spec for spec in self.bundle.component("unet").inputs if spec.name == "sample")
            batch, *shape = (int(size) for size in sample.shape)
            predict = _Guided(unet, adapter, told, batch, request.guidance)
            latents = scheduler.start(normal_noise((1, *shape), request.seed))
            for i, time in enumerate(scheduler.timesteps):
                on_stage("drawing", i, request.steps)
                latents = scheduler.step(predict(scheduler.scale(latents, i), float(time)), i, latents)
                on_step(i + 1, request.steps, latents)
        del unet, predict  # the decoder is loaded next: a phone may not hold both
        on_stage("decoding", 0, 1)
        with timed(seconds, "decode"):
            outputs = self._runner("vae_decoder").run({"latents": latents.astype(np.float32)})
            pixels = outputs["image"].astype(np.float32)
        if not np.isfinite(pixels).all():
            raise InputError("the image is not finite: this bundle's precision overflows; export it in fp32")
        return Drawn(pixels, latents, seconds, notes)

    def _told(self, request: Request, on_stage: OnStage) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Return what the UNet is told, and what of it was cut off.

        These are its `encoder_hidden_states` (b, tokens, d), `text_embeds` (b, p) and `time_ids` (b, 6): the prompt's
        row is the last one, and before it stands the negative prompt's where there is guidance.
        """
        guided = request.guidance > 1
        zeros = guided and request.negative is None and self.facts["negative"] == "zeros"
        prompts = [request.negative or "", request.prompt] if guided and not zeros else [request.prompt]
        rows, notes = [], []
        for number, prompt in enumerate(prompts):
            on_stage("reading the prompt", number, len(prompts))
            row, cut = self._encode(prompt)
            rows.append(row)
            if cut:
                notes.append(f"the prompt is too long for CLIP, this was cut off: {cut}")
        if zeros:
            rows.insert(0, {name: np.zeros_like(value) for name, value in rows[0].items()})
        told = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        # SDXL's size conditioning: original size, crop corner, target size.
        side = self.facts["pixels"]
        told["time_ids"] = np.array([[side, side, 0, 0, side, side]] * len(rows), np.float32)
        return told, tuple(notes)

    def _encode(self, prompt: str) -> tuple[dict[str, np.ndarray], str]:
        """Return a prompt's states and its pooled embedding by the UNet's inputs, and the words that did not fit."""
        states, cut = [], ""
        for name, entry in self.facts["tokenizers"].items():
            if name not in self._tokenizers:
                self._tokenizers[name] = ClipTokenizer(self.bundle.path / entry["file"], entry)
            tokens = self._tokenizers[name](prompt)
            found = self._runner(name).run({"input_ids": tokens.ids})
            states.append(found["hidden_states"].astype(np.float32))
            cut = tokens.cut
        pooled = found["text_embeds"].astype(np.float32)
        return {"encoder_hidden_states": np.concatenate(states, axis=-1), "text_embeds": pooled}, cut


@dataclass
class _Guided:
    """The UNet's guided prediction. A UNet of batch 1 is run once for each row."""

    runner: Runner
    adapter: Adapter
    told: Mapping[str, np.ndarray]  # a row a prompt, as `Pipeline._told`
    batch: int
    guidance: float

    def __call__(self, sample: np.ndarray, time: float) -> np.ndarray:
        rows = len(self.told["time_ids"])
        if rows <= self.batch:
            # A single row in a UNet of batch 2 fills it twice; the second result is dropped.
            index = [min(row, rows - 1) for row in range(self.batch)]
            predicted = self._run(sample, time, index)[:rows]
        else:
            predicted = np.concatenate([self._run(sample, time, [row]) for row in range(rows)])
        if rows == 1:
            return predicted
        without, told = predicted[:1], predicted[1:]
        return without + np.float32(self.guidance) * (told - without)

    def _run(self, sample: np.ndarray, time: float, index: list[int]) -> np.ndarray:
        inputs = {
            "sample": np.repeat(sample, len(index), axis=0),
            "timestep": np.full(len(index), time, np.float32),
            **{name: rows[index] for name, rows in self.told.items()},
            **self.adapter,
        }
        return self.runner.run(inputs)["noise_pred"].astype(np.float32)
