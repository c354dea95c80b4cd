"""LoRAs that are on for a part of the steps, or in the guided half of a batch alone: what coefficients make free.

CRAFT-LoRA's asymmetric guidance (arXiv 2602.18936) gives the unconditional pass no LoRA; its schedule has the content
early and the style late. On a phone both are coefficients, of an image of the batch and of a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from lorarar.base.attach import Factors, attached, factors_by_part
from lorarar.composed import steps_of
from lorarar.lora import LoRA
from lorarar.merging.klora import BeforeStep


@dataclass(frozen=True)
class Span:
    """The share of the steps that a LoRA is on for, from `first` and before `last`; all of them without a schedule."""

    first: float = 0.0
    last: float = 1.0

    def holds(self, step: int, steps: int) -> bool:
        """Tell whether the LoRA is on at step `step` (from 0) of `steps`."""
        return steps_of(self.first, steps) <= step < steps_of(self.last, steps)


@dataclass(frozen=True)
class Turn:
    """One of two LoRAs that take turns, the first from the beginning (LoRA Switch, arXiv 2402.16843)."""

    second: bool
    length: float = 0.05  # of a turn as a share of the steps: the authors' 5 of 100

    def holds(self, step: int, steps: int) -> bool:
        """Tell whether the LoRA is on at step `step` (from 0) of `steps`; a turn has one step at least."""
        return step // max(1, round(self.length * steps)) % 2 == self.second


CONTENT_EARLY, STYLE_LATE = Span(0.0, 0.7), Span(0.3, 1.0)
"""CRAFT-LoRA's steps 1–35 and 15–50 of 50, as shares."""


@contextmanager
def by_step(loras: Sequence[tuple[LoRA, Span | Turn]], unguided: bool, unet: nn.Module) -> Iterator[BeforeStep]:
    """Give the UNet each LoRA in its span or turn; call what is yielded before every step.

    `unguided` keeps all LoRAs out of the first half of a batch, which diffusers' guidance has for the empty prompt.
    Linears only. Raises InputError as `attached`.
    """
    device = next(unet.parameters()).device
    parts = (False, True) if unguided else (True,)
    whole: list[dict[str, torch.Tensor]] = []  # `down` of each LoRA while it is on
    given: list[dict[str, Factors]] = []
    is_on = [True] * len(loras)
    with ExitStack() as stack:
        for lora, _ in loras:
            given.append(factors_by_part(lora, parts, device))
            whole.append({name: factors.down.clone() for name, factors in given[-1].items()})
            stack.enter_context(attached(unet, given[-1]))

        def to_step(step: int, steps: int) -> None:
            for number, (_, span) in enumerate(loras):
                wanted = span.holds(step, steps)
                if wanted != is_on[number]:
                    for name, down in whole[number].items():
                        given[number][name].down.copy_(down if wanted else torch.zeros_like(down))
                    is_on[number] = wanted

        yield to_step
