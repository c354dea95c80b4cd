"""The loop that turns noise into latents: Euler and DDIM as diffusers has them, from the manifest's plain numbers.

Each is a few lines of numpy, and the same lines exist in Kotlin and Swift.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError

Latents = Float[np.ndarray, "b 4 h w"]

# Where a schedule ends without any signal, σ is infinite: diffusers takes this for the signal's square instead.
_LEAST_SIGNAL = 2.0**-24


@dataclass(frozen=True)
class SchedulerSettings:
    """The manifest's `scheduler`. Names and meanings are diffusers'."""

    kind: str  # a key of SCHEDULERS
    train_steps: int
    beta_start: float
    beta_end: float
    beta_schedule: str  # "scaled_linear" or "linear"
    prediction: str  # "epsilon" or "v_prediction"
    spacing: str  # of the timesteps: "trailing", "leading" or "linspace"
    steps_offset: int = 0  # added to leading timesteps
    zero_terminal_snr: bool = False  # rescale the betas so that the last training step is pure noise (arXiv 2305.08891)
    final_alpha_one: bool = True  # DDIM: the step after the last has no noise at all

    @property
    def most_steps(self) -> int:
        """The largest number of steps: DDIM has no signal for a timestep that the offset moves past the last one."""
        moved = self.kind == "ddim" and self.spacing == "leading"
        return self.train_steps - (self.steps_offset if moved else 0)


class Scheduler(ABC):
    """A schedule of some steps. `step` i goes from timesteps[i] to the next."""

    def __init__(self, settings: SchedulerSettings, steps: int) -> None:
        self.prediction = settings.prediction
        self.timesteps = spaced_timesteps(settings, steps)

    def start(self, noise: Latents) -> Latents:
        """Return the latents before the first step, from noise of unit variance."""
        return noise

    def scale(self, latents: Latents, i: int) -> Latents:
        """Return what the UNet is given for latents at step i."""
        return latents

    @abstractmethod
    def step(self, predicted: Latents, i: int, latents: Latents) -> Latents:
        """Return the latents after step i, from the UNet's prediction at it."""


class Euler(Scheduler):
    """Euler's method on the probability flow, in σ (arXiv 2206.00364, Algorithm 2 without churn)."""

    def __init__(self, settings: SchedulerSettings, steps: int) -> None:
        super().__init__(settings, steps)
        self._leading = settings.spacing == "leading"
        alphas = alphas_cumprod(settings)
        if settings.zero_terminal_snr:
            alphas[-1] = _LEAST_SIGNAL
        sigmas = np.sqrt((1 - alphas) / alphas)
        sigmas = np.interp(self.timesteps, np.arange(len(sigmas)), sigmas)
        self.sigmas = np.append(sigmas, 0.0).astype(np.float32)

    def start(self, noise: Latents) -> Latents:
        largest = self.sigmas.max()
        return noise * (np.sqrt(largest**2 + 1) if self._leading else largest)

    def scale(self, latents: Latents, i: int) -> Latents:
        return latents / np.sqrt(self.sigmas[i] ** 2 + 1)

    def step(self, predicted: Latents, i: int, latents: Latents) -> Latents:
        sigma = self.sigmas[i]
        if self.prediction == "epsilon":
            slope = predicted
        else:
            clean = latents / (sigma**2 + 1) - predicted * (sigma / np.sqrt(sigma**2 + 1))
            slope = (latents - clean) / sigma
        return latents + slope * (self.sigmas[i + 1] - sigma)


class Ddim(Scheduler):
    """DDIM without noise (η = 0, arXiv 2010.02502, Eq. 12)."""

    def __init__(self, settings: SchedulerSettings, steps: int) -> None:
        super().__init__(settings, steps)
        alphas = alphas_cumprod(settings).astype(np.float32)
        stride = settings.train_steps // steps
        self._signal = alphas[self.timesteps.astype(int)]
        before = self.timesteps.astype(int) - stride
        final = np.float32(1.0) if settings.final_alpha_one else alphas[0]
        self._next = np.where(before >= 0, alphas[before.clip(0)], final)

    def step(self, predicted: Latents, i: int, latents: Latents) -> Latents:
        signal, spread = np.sqrt(self._signal[i]), np.sqrt(1 - self._signal[i])
        if self.prediction == "epsilon":
            noise, clean = predicted, (latents - spread * predicted) / signal
        else:
            clean, noise = signal * latents - spread * predicted, signal * predicted + spread * latents
        return np.sqrt(self._next[i]) * clean + np.sqrt(1 - self._next[i]) * noise


SCHEDULERS: dict[str, type[Scheduler]] = {"euler": Euler, "ddim": Ddim}


def make_scheduler(settings: SchedulerSettings, steps: int) -> Scheduler:
    """Make a schedule of `steps` steps. Raises InputError for a number of steps that it can't have."""
    most = settings.most_steps
    if not 1 <= steps <= most:
        raise InputError(f"`steps` is {steps}; valid are 1 to {most}")
    return SCHEDULERS[settings.kind](settings, steps)


def alphas_cumprod(settings: SchedulerSettings) -> Float[np.ndarray, " train_steps"]:
    """Return the share of signal (squared) left after each training step, in float64."""
    start, end = settings.beta_start, settings.beta_end
    if settings.beta_schedule == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, settings.train_steps) ** 2
    else:
        betas = np.linspace(start, end, settings.train_steps)
    alphas = np.cumprod(1 - betas)
    if settings.zero_terminal_snr:
        roots = np.sqrt(alphas)
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return alphas


def spaced_timesteps(settings: SchedulerSettings, steps: int) -> Float[np.ndarray, " steps"]:
    """Return the timesteps from noise to image (arXiv 2305.08891, Table 2)."""
    train = settings.train_steps
    if settings.spacing == "trailing":
        # For 61, 103, … steps rounding gives one timestep more, which is -1; diffusers takes it too, and this does not.
        return (np.round(np.arange(train, 0, -train / steps)) - 1)[:steps].astype(np.float32)
    if settings.spacing == "leading":
        return ((np.arange(steps) * (train // steps))[::-1] + settings.steps_offset).astype(np.float32)
    times = np.linspace(0, train - 1, steps)[::-1]
    # DDIM looks its signal up at whole training steps, to which diffusers rounds; Euler interpolates between them.
    return (np.round(times) if settings.kind == "ddim" else times).astype(np.float32)
