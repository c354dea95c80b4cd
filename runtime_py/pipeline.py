"""Text to image with a bundle alone: text encoders, the UNet in the scheduler's loop, the VAE's decoder.

Numpy between the artifacts; the same steps in the same order are the apps'. One network is in memory at a time, but for
the UNet, which stays loaded for the whole loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from lorarar.command_line import Stopwatch
from lorarar.errors import InputError
from lorarar.layout import Adapter, fixed, pack, rank_sizes
from lorarar.lora import LoRA
from runtime_py.backends import Session, open_session
from runtime_py.bundle import Bundle
from runtime_py.noise import MAX_SEED, normal_noise
from runtime_py.scheduler import SchedulerSettings, make_scheduler
from runtime_py.tokens import ClipTokenizer

Report = Callable[[str, int, int], None]
"""Called with the stage, and how many of its steps are done of how many."""
Image = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Request:
    """One image."""

    prompt: str
    seed: int = 0
    steps: int = 25
    guidance: float = 4.0  # classifier-free guidance; 1 turns it off and halves the work
    negative: str | None = None  # None: what the base was made for, zeros or the empty prompt

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InputError(f"--seed {self.seed} is out of range; valid are 0 to {MAX_SEED}")
        if not (np.isfinite(self.guidance) and self.guidance >= 1):
            raise InputError(f"--guidance {self.guidance} is not possible; give 1 (off) or more, 3 to 7 are usual")


@dataclass
class Drawn:
    """An image, the latents it was decoded from, and where the time went."""

    pixels: Float[np.ndarray, "1 3 h w"]  # in [0, 1]
    latents: Float[np.ndarray, "1 4 y x"]
    watch: Stopwatch
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> Image:
        """As bytes, rows first."""
        return np.rint(self.pixels[0].transpose(1, 2, 0) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Condition:
    """What the UNet is told: the prompt's row last, before it the negative's where there is guidance."""

    states: Float[np.ndarray, "b tokens d"]
    pooled: Float[np.ndarray, "b p"]


@dataclass
class Pipeline:
    """A bundle's networks, each loaded when it is needed; `sessions` may be kept to draw several images."""

    bundle: Bundle
    threads: int | None = None
    keep: bool = False
    sessions: dict[str, Session] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "pipeline" not in self.bundle.manifest:
            parts = ", ".join(self.bundle.manifest["components"])
            raise InputError(
                f"{self.bundle.path}: this bundle can't draw, it holds {parts} alone; make a whole one with  "
                "python -m export.pipeline"
            )

    @property
    def facts(self) -> Mapping[str, Any]:
        """The manifest's `pipeline`."""
        return self.bundle.manifest["pipeline"]

    @contextmanager
    def session(self, name: str) -> Iterator[Session]:
        """A component, loaded; dropped afterwards unless all are kept."""
        found = self.sessions.get(name) or open_session(self.bundle, name, self.threads)
        if self.keep:
            self.sessions[name] = found
        yield found

    def adapter(self, lora: LoRA | None) -> Adapter:
        """A LoRA as the UNet's inputs, by name; zeros without one. InputError when its rank is too large."""
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

    def draw(self, request: Request, adapter: Adapter, report: Report = lambda *_: None) -> Drawn:
        """One image. Raises InputError for a number of steps that the schedule can't have."""
        scheduler = make_scheduler(SchedulerSettings.from_json(self.facts["scheduler"]), request.steps)
        watch = Stopwatch()
        with watch.stage("text"):
            condition, notes = self._condition(request, report)
        unet = self.bundle.component("unet")
        shape = next(spec.shape for spec in unet.inputs if spec.name == "sample")
        latents = scheduler.start(normal_noise((1, *(int(size) for size in shape[1:])), request.seed))
        with watch.stage("load the UNet"), self.session("unet") as session:
            pass
        with watch.stage("steps"):
            step = _Step(session, {"time_ids": self._sizes(), **adapter}, condition, int(shape[0]), request.guidance)
            for i, time in enumerate(scheduler.timesteps):
                report("drawing", i, request.steps)
                latents = scheduler.step(step(scheduler.scale(latents, i), float(time)), i, latents)
        del session, step
        report("decoding", 0, 1)
        with watch.stage("decode"), self.session("vae_decoder") as session:
            pixels = session.run({"latents": latents.astype(np.float32)})["image"].astype(np.float32)
        if not np.isfinite(pixels).all():
            raise InputError("the image is not finite: this bundle's precision overflows; export it in fp32")
        return Drawn(pixels, latents, watch, notes)

    def _condition(self, request: Request, report: Report) -> tuple[Condition, tuple[str, ...]]:
        prompts = [request.prompt]
        if request.guidance > 1:
            negative = request.negative if request.negative is not None else ""
            zeros = request.negative is None and self.facts["negative"] == "zeros"
            prompts = [request.prompt] if zeros else [negative, request.prompt]
        rows, notes = [], []
        for number, prompt in enumerate(prompts):
            report("reading the prompt", number, len(prompts))
            states, pooled, cut = self._encode(prompt)
            rows.append((states, pooled))
            if cut:
                notes.append(f"the prompt is too long for CLIP, this was cut off: {cut}")
        if request.guidance > 1 and len(rows) == 1:
            rows.insert(0, (np.zeros_like(rows[0][0]), np.zeros_like(rows[0][1])))
        states, pooled = (np.concatenate([row[part] for row in rows]) for part in (0, 1))
        return Condition(states, pooled), tuple(notes)

    def _encode(self, prompt: str) -> tuple[np.ndarray, np.ndarray, str]:
        states, cut = [], ""
        for name, entry in self.facts["tokenizers"].items():
            tokens = ClipTokenizer(self.bundle.path / entry["file"], entry)(prompt)
            with self.session(name) as session:
                found = session.run({"input_ids": tokens.ids})
            states.append(found["hidden_states"].astype(np.float32))
            cut = tokens.cut
        return np.concatenate(states, axis=-1), found["text_embeds"].astype(np.float32), cut

    def _sizes(self) -> Float[np.ndarray, "1 6"]:
        """SDXL's size conditioning: original size, crop corner, target size."""
        side = float(self.facts["pixels"])
        return np.array([[side, side, 0, 0, side, side]], np.float32)


@dataclass
class _Step:
    """The UNet's guided prediction. A UNet of batch 1 is run once for each row."""

    session: Session
    fixed: Mapping[str, np.ndarray]
    condition: Condition
    batch: int
    guidance: float

    def __call__(self, sample: np.ndarray, time: float) -> np.ndarray:
        rows = len(self.condition.states)
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
        count = len(index)
        inputs = {
            "sample": np.repeat(sample, count, axis=0),
            "timestep": np.full((count,), time, np.float32),
            "encoder_hidden_states": self.condition.states[index],
            "text_embeds": self.condition.pooled[index],
            **self.fixed,
            "time_ids": np.repeat(self.fixed["time_ids"], count, axis=0),
        }
        return self.session.run(inputs)["noise_pred"].astype(np.float32)


def defaults(bundle: Bundle, prompt: str, **given: Any) -> Request:
    """A request with the bundle's own steps and guidance where none are given."""
    facts = Pipeline(bundle).facts
    request = Request(prompt, steps=int(facts["steps"]), guidance=float(facts["guidance"]))
    return replace(request, **{name: value for name, value in given.items() if value is not None})
