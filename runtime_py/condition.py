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
from runtime_py.guidance import Blend, Coefficients, Inputs, at_step, terms_of
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
    """What the UNet is told of the images of a request, for each of the terms that their steps are made of."""

    rows: Sequence[Row]  # those that differ
    index: Sequence[Int[np.ndarray, "images _"]]  # by step: which row each image has for each term
    notes: tuple[str, ...]  # what of the prompts was cut off, one sentence each

    def inputs(self, wanted: Sequence[tuple[int, int]], step: int) -> dict[str, np.ndarray]:
        """Return the UNet's inputs of these pairs of an image and a term, in their order."""
        found = [self.rows[self.index[step][image, term]] for image, term in wanted]
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
        zeros = request.guidance > 1 and request.negative is None and self._facts["negative"] == "zeros"
        images, index = range(len(inputs.blends)), []
        readings: dict[tuple[str, bytes], int] = {}
        wanted: list[_Reading] = []
        # By prompt and blend, of those that no step changes; the row of zeros is the first.
        known: dict[tuple[str | None, int], int] = {}
        for step in range(request.steps):
            places = []
            for term in (term for image in images for term in terms_of(request, inputs, image, step)):
                name = term.prompt, id(term.blend)
                place = 0 if term.prompt is None and zeros else known.get(name)
                if place is None:
                    reading = _Reading(term.prompt or "", self._of_text(term.blend, inputs, step, request.steps))
                    place = readings.setdefault(_key(reading), len(readings)) + zeros
                    wanted += [reading] * (place - zeros == len(wanted))
                    if not (callable(term.blend) and self._coefficients):
                        known[name] = place
                places.append(place)
            index.append(np.array(places).reshape(len(images), -1))
        rows, notes = self._encode(wanted, inputs.stack, on_stage)
        if zeros:
            rows.insert(0, {name: np.zeros_like(value) for name, value in rows[0].items()})
        side = self._facts["pixels"]
        sizes = sinusoids(np.array([side, side, 0, 0, side, side], np.float32), self._size_width)
        return Told([{**row, SIZE_SINUSOIDS: sizes[None]} for row in rows], index, notes)

    def _of_text(self, blend: Blend | None, inputs: Inputs, step: int, steps: int) -> Coefficients:
        """Return the text encoders' coefficients as they take them, for one prompt; zeros without a blend."""
        if not self._coefficients:
            return {}
        given = at_step(inputs.blends[0] if blend is None else blend, step, steps)
        return {
            name: np.zeros_like(given[name][None]) if blend is None else given[name][None]
            for name in self._coefficients
        }

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
