"""What the UNet is told of a request: its prompts through the text encoders, LoRAs and all, and the image's size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from lorarar.layout import COEFFICIENTS
from runtime_py.backends import Runners
from runtime_py.guidance import Coefficients, Inputs, at_step
from runtime_py.sinusoids import SIZE_SINUSOIDS, SIZES, sinusoids
from runtime_py.stages import OnStage
from runtime_py.tokens import ClipTokenizer

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle
    from runtime_py.pipeline import Request

Row = Mapping[str, np.ndarray]
"""A prompt's `encoder_hidden_states` (1, tokens, d) and `text_embeds` (1, p), and the image's `size_sinusoids`."""


@dataclass(frozen=True)
class Told:
    """What the UNet is told of the images of a request.

    An image's last row is its prompt's, and before it stands the negative prompt's where there is guidance.
    """

    rows: Sequence[Row]  # those that differ
    index: Int[np.ndarray, "images steps prompts"]  # which row each image has in each step for each prompt
    notes: tuple[str, ...]  # what of the prompts was cut off, one sentence each

    @property
    def prompts(self) -> int:
        """The rows of one image in one step."""
        return int(self.index.shape[2])

    def inputs(self, wanted: Sequence[tuple[int, int]], step: int) -> dict[str, np.ndarray]:
        """Return the UNet's inputs of these pairs of an image and a prompt, in their order."""
        found = [self.rows[self.index[image, step, prompt]] for image, prompt in wanted]
        return {name: np.concatenate([row[name] for row in found]) for name in found[0]}


class _Reading(NamedTuple):
    """A prompt to encode, and how much of each LoRA the text encoders have meanwhile."""

    prompt: str
    coefficients: Coefficients


class ConditionReader:
    """Reads the prompts of requests with a bundle's text encoders, one encoder after the other.

    A prompt is encoded once for all images and steps whose LoRAs change the text encoders alike.
    """

    def __init__(self, bundle: Bundle, runners: Runners) -> None:
        self._facts: Mapping[str, Any] = bundle.manifest["pipeline"]
        self._runner, self._path = runners, bundle.path
        self._inputs = {name: bundle.component(name).inputs for name in self._facts["tokenizers"]}
        specs = [spec.name for component in self._inputs.values() for spec in component]
        self._coefficients = [name for name in specs if name.startswith(COEFFICIENTS)]
        self._size_width = bundle.component("unet").input_width(SIZE_SINUSOIDS) // SIZES
        self._tokenizers: dict[str, ClipTokenizer] = {}

    def read(self, request: Request, inputs: Inputs, on_stage: OnStage) -> Told:
        """Return what the UNet is told in all images and steps."""
        prompts = [request.negative or "", request.prompt] if request.guidance > 1 else [request.prompt]
        zeros = len(prompts) == 2 and request.negative is None and self._facts["negative"] == "zeros"
        index = np.zeros((len(inputs.blends), request.steps, len(prompts)), int)
        readings: dict[tuple[str, bytes], int] = {}
        wanted: list[_Reading] = []
        for image, blend in enumerate(inputs.blends):
            changes = callable(blend) and bool(self._coefficients)
            for step in range(request.steps if changes else 1):
                given = at_step(blend, step, request.steps)
                for number, prompt in enumerate(prompts[zeros:], start=int(zeros)):
                    off = request.leaves_loras_out(number, len(prompts))
                    reading = _Reading(prompt, self._of_text(given, off))
                    place = readings.setdefault(_key(reading), len(readings))
                    wanted += [reading] * (place == len(wanted))
                    index[image, step:, number] = place + zeros
        rows, notes = self._encode(wanted, inputs.stack, on_stage)
        if zeros:
            rows.insert(0, {name: np.zeros_like(value) for name, value in rows[0].items()})
        side = self._facts["pixels"]
        sizes = sinusoids(np.array([side, side, 0, 0, side, side], np.float32), self._size_width)
        return Told([{**row, SIZE_SINUSOIDS: sizes[None]} for row in rows], index, notes)

    def _of_text(self, given: Coefficients, off: bool) -> Coefficients:
        """Return the text encoders' coefficients as they take them, for one prompt."""
        return {name: np.zeros_like(given[name][None]) if off else given[name][None] for name in self._coefficients}

    def _encode(
        self, wanted: Sequence[_Reading], stack: Mapping[str, np.ndarray], on_stage: OnStage
    ) -> tuple[list[dict[str, np.ndarray]], tuple[str, ...]]:
        """Return each reading's states and pooled embedding by the UNet's inputs, and what of the prompts was cut."""
        states: list[list[np.ndarray]] = [[] for _ in wanted]
        pooled: list[np.ndarray] = []
        cut: dict[str, str] = {}
        for done, (name, specs) in enumerate(self._inputs.items()):
            on_stage("reading the prompt", done, len(self._inputs))
            tokenizer, runner = self._tokenizer(name), self._runner(name)
            for reading, mine in zip(wanted, states, strict=True):
                tokens = tokenizer(reading.prompt)
                given = {"input_ids": tokens.ids, **stack, **reading.coefficients}
                found = runner.run({spec.name: given[spec.name] for spec in specs})
                mine.append(found["hidden_states"].astype(np.float32))
                cut[reading.prompt] = tokens.cut
                if "text_embeds" in found:
                    pooled.append(found["text_embeds"].astype(np.float32))
            del runner  # the next one is loaded: a phone may not hold both
        rows = [
            {"encoder_hidden_states": np.concatenate(mine, axis=-1), "text_embeds": embeds}
            for mine, embeds in zip(states, pooled, strict=True)
        ]
        notes = [f"the prompt is too long for CLIP, this was cut off: {text}" for text in cut.values() if text]
        return rows, tuple(notes)

    def _tokenizer(self, name: str) -> ClipTokenizer:
        if name not in self._tokenizers:
            entry = self._facts["tokenizers"][name]
            self._tokenizers[name] = ClipTokenizer(self._path / entry["file"], entry)
        return self._tokenizers[name]


def _key(reading: _Reading) -> tuple[str, bytes]:
    """Tell readings apart: the prompt, and a digest of the coefficients."""
    digest = hashlib.blake2b()
    for values in reading.coefficients.values():
        digest.update(values.tobytes())
    return reading.prompt, digest.digest()
