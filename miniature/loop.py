"""Run the miniature's own trainings: resuming bit for bit, the weights' moving average, the rate, the precision."""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.errors import InputError
from lorarar.files import atomic_file
from lorarar.training.settings import half_cosine
from miniature.progress import Report, silent

LARGEST_GRADIENT = 1.0  # norm to which a gradient is clipped
SAVE_SECONDS = 60.0  # a stopped run loses at most this much
BF16_PRODUCTS = ("avx512_bf16", "amx_bf16", "bf16")  # a CPU's instructions by torch's names: x86, x86, arm64


@dataclass(frozen=True)
class Schedule:
    """The steps and learning rate of a loop: a linear warm-up, then half a cosine down to a hundredth."""

    steps: int
    rate: float
    warmup: int = 100

    def at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * half_cosine(share))


class Average:
    """An exponential moving average of weights; it forgets faster at the beginning, when weights move most."""

    def __init__(self, modules: Iterable[nn.Module], decay: float = 0.999) -> None:
        self.parameters: list[Tensor] = [parameter for module in modules for parameter in module.parameters()]
        self.shadow = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, self.parameters, 1 - keep)

    @torch.no_grad()
    def store(self) -> None:
        """Put the averaged weights into the modules."""
        torch._foreach_copy_(self.parameters, self.shadow)


def seeded(*numbers: int) -> torch.Generator:
    """Make a generator that depends on these numbers alone: a step's noise is the same in a resumed run."""
    import numpy as np

    state = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def fast_products(device: str = "cpu") -> AbstractContextManager[Any]:
    """Take a step's products in bf16 on a GPU, and where the CPU has such instructions, in fp32 elsewhere.

    Elsewhere torch emulates bf16: on two cores of a Xeon that has no such products, a step of the autoencoder took
    2.1 s in bf16 and 0.63 s in fp32. A build that was stopped may go on on a CPU of the other kind; the last digits
    differ between the two.
    """
    if device != "cpu":
        return torch.autocast(device, dtype=torch.bfloat16)
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name, False) for name in BF16_PRODUCTS)
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=native)


@dataclass
class Loop:
    """A training of some modules by AdamW for a schedule's steps, with a state file to go on from.

    The state is removed by `run`'s caller once the result is saved.
    """

    modules: list[nn.Module]
    schedule: Schedule
    state: Path
    title: str
    settings: dict[str, Any]  # what the run was started with; a state of other settings is refused
    report: Report = silent
    device: str = "cpu"  # that the modules are on while they are trained

    def run(self, loss_of: Callable[[int], Float[Tensor, ""]]) -> list[float]:
        """Minimise `loss_of(step)`; return the loss of every step, and leave the modules frozen with averaged weights.

        Raises InputError when a loss is not finite.
        """
        for module in self.modules:
            module.to(self.device).train().requires_grad_(True)
        average = Average(self.modules)
        optimizer = torch.optim.AdamW(
            average.parameters, lr=self.schedule.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        losses = self._resume(optimizer, average)
        saved = time.monotonic()
        for step in range(len(losses), self.schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.at(step)
            loss = loss_of(step)
            loss.backward()
            nn.utils.clip_grad_norm_(average.parameters, LARGEST_GRADIENT)
            optimizer.step()
            optimizer.zero_grad()
            average.update(step)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise InputError(f"{self.title}: the loss is {losses[-1]} at step {step}; lower the learning rate")
            self.report(f"{self.title}, loss {fmean(losses[-100:]):.4f}", len(losses), self.schedule.steps)
            if time.monotonic() - saved > SAVE_SECONDS:
                self._save(optimizer, average, losses)
                saved = time.monotonic()
        self._save(optimizer, average, losses)
        average.store()
        for module in self.modules:
            module.to("cpu").eval().requires_grad_(False)
        return losses

    def _save(self, optimizer: torch.optim.Optimizer, average: Average, losses: list[float]) -> None:
        state = {
            "settings": self.settings,
            "modules": [module.state_dict() for module in self.modules],
            "optimizer": optimizer.state_dict(),
            "average": average.shadow,
            "losses": losses,
        }
        with atomic_file(self.state) as temporary:
            written = io.BytesIO()
            torch.save(state, written)
            temporary.write_bytes(written.getbuffer())  # a full disk is an OSError here, and no cause in torch's

    def _resume(self, optimizer: torch.optim.Optimizer, average: Average) -> list[float]:
        if not self.state.is_file():
            return []
        try:
            state = torch.load(self.state, map_location=self.device, weights_only=True)
        except (EOFError, RuntimeError, pickle.UnpicklingError):
            raise InputError(f"{self.state} is damaged; remove it, and this training starts again") from None
        if state["settings"] != self.settings:
            raise InputError(f"{self.state} is of a run with other settings; remove it, or give those settings again")
        for module, weights in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(weights)
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        return list(state["losses"])
