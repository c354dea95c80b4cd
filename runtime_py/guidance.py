"""The UNet's prediction for one step: rows of prompts and images, each with coefficients of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lorarar.layout import COEFFICIENTS
from runtime_py.component import Component
from runtime_py.sinusoids import TIMESTEP_SINUSOIDS, sinusoids

if TYPE_CHECKING:
    from runtime_py.backends import Runner
    from runtime_py.condition import Told
    from runtime_py.pipeline import Request

Coefficients = Mapping[str, np.ndarray]
"""`coefficients_{group}` (N, K, in) of one image."""
Blend = Coefficients | Callable[[int, int], Coefficients]
"""The coefficients of one image: the same at all steps, or a function of (step from 0, steps)."""


@dataclass(frozen=True)
class Inputs:
    """What the networks take beside latents and prompts: the stack of all images, and a blend for each."""

    stack: Mapping[str, np.ndarray]  # the factors and the roles, by name
    blends: Sequence[Blend]


def at_step(blend: Blend, step: int, steps: int) -> Coefficients:
    """Return the coefficients of one step."""
    return blend(step, steps) if callable(blend) else blend


class Guided:
    """The guided prediction of images of one prompt.

    Each image has a row for each of the prompts, the negative one first. The UNet is run on as many rows as it takes;
    the last run is filled up with its own last row.
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
        self._rows = [(image, prompt) for image in range(len(inputs.blends)) for prompt in range(told.prompts)]
        self._prompts = told.prompts
        self._kept: dict[int, Coefficients] = {}  # by run, where no blend changes from step to step

    def __call__(
        self, sample: Float[np.ndarray, "images c h w"], time: float, step: int
    ) -> Float[np.ndarray, "images c h w"]:
        """Predict the noise of every image at one step."""
        predicted = np.concatenate([self._run(start, sample, time, step) for start in self._starts()])
        if self._prompts == 1:
            return predicted
        without, told = predicted[0::2], predicted[1::2]
        return without + np.float32(self.request.guidance) * (told - without)

    def _starts(self) -> range:
        return range(0, len(self._rows), self.batch)

    def _run(self, start: int, sample: np.ndarray, time: float, step: int) -> np.ndarray:
        rows = self._rows[start : start + self.batch]
        full = rows + [rows[-1]] * (self.batch - len(rows))
        inputs = {
            "sample": sample[[image for image, _ in full]],
            TIMESTEP_SINUSOIDS: np.tile(sinusoids(np.array([time], np.float32), self._time_width), (self.batch, 1)),
            **self.told.inputs(full, step),
            **self._stack,
            **self._coefficients(start, full, step),
        }
        return self.runner.run(inputs)["noise_pred"][: len(rows)].astype(np.float32)

    def _coefficients(self, start: int, rows: Sequence[tuple[int, int]], step: int) -> Coefficients:
        if start in self._kept:
            return self._kept[start]
        blends = {image: self.inputs.blends[image] for image, _ in rows}
        given = {image: at_step(blend, step, self.request.steps) for image, blend in blends.items()}
        off = [self.request.leaves_loras_out(prompt, self._prompts) for _, prompt in rows]
        each = [(given[image], is_off) for (image, _), is_off in zip(rows, off, strict=True)]
        made = {
            name: np.stack([np.zeros_like(one[name]) if is_off else one[name] for one, is_off in each]).astype(
                self._types[name], copy=False
            )
            for name in self._live
        }
        if not any(map(callable, blends.values())):
            self._kept[start] = made
        return made
