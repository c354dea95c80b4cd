"""The UNet's prediction for one step, put together from rows: each a prompt with coefficients of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from lorarar.layout import COEFFICIENTS
from runtime_py.component import Component
from runtime_py.sinusoids import TIMESTEP_SINUSOIDS, sinusoids

MOST_KEPT = 4  # stacked coefficients of rows that are drawn together

if TYPE_CHECKING:
    from runtime_py.backends import Runner
    from runtime_py.condition import Told
    from runtime_py.pipeline import Request

Coefficients = Mapping[str, np.ndarray]
"""`coefficients_{group}` (N, K, in) of one image."""
Blend = Coefficients | Callable[[int, int], Coefficients]
"""The coefficients of one image: the same at all steps, or a function of (step from 0, steps)."""


class Apart(NamedTuple):
    """The blends of an image's composed steps: the content alone, the style alone, and neither of them."""

    content: Blend
    style: Blend
    neither: Blend


@dataclass(frozen=True)
class Inputs:
    """What the networks take beside latents and prompts: the stack of all images, and a blend for each.

    `apart` has each image's blends for a composed start; without one it is empty.
    """

    stack: Mapping[str, np.ndarray]  # the factors and the roles, by name
    blends: Sequence[Blend]
    apart: Sequence[Apart] = ()


class Term(NamedTuple):
    """One of the predictions that an image's step is put together from."""

    prompt: str | None  # None: what the base was made for where there is no negative prompt
    blend: Blend | None  # None: no LoRA
    sign: int = 1


def guidance_in_words(guidance: float, rescale: float) -> str:
    """Return how an image is guided, for a line of a command: `guidance 2.5, rescaled by 0.7`."""
    return f"guidance {guidance:g}" + (f", rescaled by {rescale:g}" if rescale else "")


def terms_of(request: Request, inputs: Inputs, image: int, step: int) -> list[Term]:
    """Return the terms of an image's step. With guidance the first is what it compares the sum of the others with."""
    start, without = request.composed, inputs.blends[image]
    if start is not None and start.holds(step, request.steps):
        subject, styled, plain = start.prompts(request.prompt)
        content, style, without = inputs.apart[image]
        said = [Term(subject, content), Term(styled, style), Term(plain, without, -1)]
    else:
        said = [Term(request.prompt, without)]
    if request.guidance == 1:
        return said
    return [Term(request.negative, None if request.guidance_without_lora else without), *said]


def at_step(blend: Blend, step: int, steps: int) -> Coefficients:
    """Return the coefficients of one step."""
    return blend(step, steps) if callable(blend) else blend


def rescaled(
    guided: Float[np.ndarray, "images c h w"], told: Float[np.ndarray, "images c h w"], share: float
) -> Float[np.ndarray, "images c h w"]:
    """Bring guided predictions back to the spread of the prompt's own, by a share from 0 (not at all) to 1.

    Guidance makes a prediction's numbers larger, and so colours too strong (arXiv 2305.08891, section 3.4).
    """
    if share == 0:
        return guided
    own, larger = (each.std(axis=(1, 2, 3), dtype=np.float64, keepdims=True) for each in (told, guided))
    factor = share * np.divide(own, larger, out=np.ones_like(own), where=larger != 0) + (1 - share)
    return guided * factor.astype(np.float32)


class Guided:
    """The guided prediction of images of one prompt.

    Each image has a row for each of its terms. The UNet is run on as many rows as it takes; the last run is filled up
    with its own last row.
    """

    def __init__(self, runner: Runner, component: Component, inputs: Inputs, told: Told, request: Request) -> None:
        sample = next(spec for spec in component.inputs if spec.name == "sample")
        self.batch, *shape = (int(size) for size in sample.shape)
        self.latent_shape = tuple(shape)
        self.runner, self.inputs, self.told, self.request = runner, inputs, told, request
        self._types = {spec.name: spec.dtype for spec in component.inputs}
        self._time_width = component.input_width(TIMESTEP_SINUSOIDS)
        self._live = [name for name in self._types if name.startswith(COEFFICIENTS)]
        self._stack = {name: value for name, value in inputs.stack.items() if name in self._types}
        # By the rows' blends, where none changes with the step. A grid of strengths has many, of 10 MB each for SDXL.
        self._kept: dict[tuple[int, ...], Coefficients] = {}

    def __call__(
        self, sample: Float[np.ndarray, "images c h w"], time: float, step: int
    ) -> Float[np.ndarray, "images c h w"]:
        """Predict the noise of every image at one step."""
        terms = [terms_of(self.request, self.inputs, image, step) for image in range(len(sample))]
        rows = [(image, number) for image, those in enumerate(terms) for number in range(len(those))]
        blends = [terms[image][number].blend for image, number in rows]
        runs = range(0, len(rows), self.batch)
        parts = [self._run(rows[at : at + self.batch], blends[at : at + self.batch], sample, time, step) for at in runs]
        predicted = np.concatenate(parts).reshape(len(sample), -1, *self.latent_shape)
        signs = np.array([term.sign for term in terms[0]], np.float32)
        signed = predicted * signs[:, None, None, None]
        if self.request.guidance == 1:
            return signed.sum(axis=1)
        without, told = predicted[:, 0], signed[:, 1:].sum(axis=1)
        guided = without + np.float32(self.request.guidance) * (told - without)
        return rescaled(guided, told, self.request.guidance_rescale)

    def _run(
        self,
        rows: Sequence[tuple[int, int]],
        blends: Sequence[Blend | None],
        sample: np.ndarray,
        time: float,
        step: int,
    ) -> np.ndarray:
        missing = self.batch - len(rows)
        full, all_blends = [*rows, *[rows[-1]] * missing], [*blends, *[blends[-1]] * missing]
        inputs = {
            "sample": sample[[image for image, _ in full]],
            TIMESTEP_SINUSOIDS: np.tile(sinusoids(np.array([time], np.float32), self._time_width), (self.batch, 1)),
            **self.told.inputs(full, step),
            **self._stack,
            **self._coefficients(all_blends, step),
        }
        return self.runner.run(inputs)["noise_pred"][: len(rows)].astype(np.float32)

    def _coefficients(self, blends: Sequence[Blend | None], step: int) -> Coefficients:
        key = tuple(map(id, blends))
        if key in self._kept:
            return self._kept[key]
        given = {id(blend): at_step(blend, step, self.request.steps) for blend in blends if blend is not None}
        some = next(iter(given.values()), None) or at_step(self.inputs.blends[0], step, self.request.steps)
        made = {
            name: np.stack(
                [given[id(blend)][name] if blend is not None else np.zeros_like(some[name]) for blend in blends]
            ).astype(self._types[name], copy=False)
            for name in self._live
        }
        if not any(map(callable, blends)):
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept[key] = made
        return made
