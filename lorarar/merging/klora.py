"""K-LoRA (arXiv 2502.18461): each layer uses one of the two LoRAs, whole, at each step. Nothing is trained.

A layer takes the content LoRA at step t of T when

    S_c / (γ·S_s) > α·t/T + β,

S being the sum of the K = r_c·r_s largest |ΔW| entries of the layer, and γ the mean over layers of Σ|ΔW_c| / Σ|ΔW_s|,
which makes LoRAs of different strength comparable. The right side grows, so that content is favoured early, where the
shape is settled, and style late; a layer switches at most once. The result is not one LoRA file.

The authors' code differs, and up to half of its choices with it. By default (its `--pattern s*`) β is 0.85·α and the
right side is taken modulo α: style comes first, then the count begins anew. It counts calls of layers and not steps,
and leaves layers of at least 3 times the mean ratio out of γ. That is `released`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.lora import LoRA, LoraLayer

if TYPE_CHECKING:
    from torch import nn

ALPHA, BETA = 1.5, 0.5  # the paper's for SDXL
RELEASED_BETA, FARTHEST = 0.85 * ALPHA, 3.0
BeforeStep = Callable[[int, int], None]
"""Called before step t of T with (t, T)."""


def top_sum(delta: Float[np.ndarray, "..."], count: int) -> float:
    """Return the sum of the `count` largest magnitudes (of all of them when there are fewer)."""
    magnitudes = np.abs(delta).ravel()
    count = min(count, magnitudes.size)
    return float(np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count :].sum(dtype=np.float64))


def check_common(content: LoRA, style: LoRA) -> list[str]:
    """Return the layers that both LoRAs have, which K-LoRA chooses for. Raises InputError when there are none."""
    names = [name for name in content.layers if name in style.layers]
    if not names:
        raise InputError(f"{content.source} and {style.source} have no layer in common; are they for one base?")
    return names


@dataclass(frozen=True)
class KLoRA:
    """A plan: two LoRAs and, for each layer that both have, the ratio S_c/(γ·S_s)."""

    content: LoRA
    style: LoRA
    ratios: Mapping[str, float]
    released: bool = False

    @classmethod
    def plan(cls, content: LoRA, style: LoRA, released: bool = False) -> KLoRA:
        """Compare the two LoRAs layer by layer. Raises InputError when they have no layer in common."""
        names = check_common(content, style)
        tops: dict[str, tuple[float, float]] = {}
        strengths: list[float] = []
        for name in names:
            layers = content.layers[name], style.layers[name]
            count = layers[0].rank * layers[1].rank
            deltas = [layer.delta() for layer in layers]
            tops[name] = top_sum(deltas[0], count), top_sum(deltas[1], count)
            sums = [float(np.abs(delta).sum(dtype=np.float64)) for delta in deltas]
            if sums[1] > 0:
                strengths.append(sums[0] / sums[1])
        gamma = float(np.mean(strengths)) if strengths else 1.0
        if released and (near := [strength for strength in strengths if strength < FARTHEST * gamma]):
            gamma = float(np.mean(near))
        return cls(content, style, {name: _ratio(*tops[name], gamma) for name in names}, released)

    def picks_content(self, layer: str, step: int, steps: int) -> bool:
        """Tell whether the layer uses the content LoRA at step `step` (from 0) of `steps`."""
        if not self.released:
            return self.ratios[layer] > ALPHA * step / steps + BETA
        every = steps * len(self.ratios)
        call = step * len(self.ratios) + self._places[layer] + 1  # the code counts before it asks
        return self.ratios[layer] > (ALPHA * (call % every) / every + RELEASED_BETA) % ALPHA

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ratios)}

    @contextmanager
    def applied(self, unet: nn.Module) -> Iterator[BeforeStep]:
        """Give the UNet the layers of each step; the weights are exactly the old ones afterwards.

        Call what is yielded before every step. Layers that only one LoRA has are on at all steps. Raises InputError
        for layers that the UNet does not have, or has in another shape.
        """
        import torch

        # Not needed for a plan: it imports torch.
        from lorarar.base.attach import fitting_modules

        modules = fitting_modules(unet, self.content) | fitting_modules(unet, self.style)
        old = {name: module.weight.detach().clone() for name, module in modules.items()}
        on: dict[str, LoraLayer] = {}

        def to_step(step: int, steps: int) -> None:
            for name, module in modules.items():
                layer = self._layer(name, step, steps)
                if on.get(name) is not layer:
                    delta = torch.from_numpy(layer.delta()).to(old[name].device)
                    # Added in fp32 and rounded once, as a fused LoRA is.
                    module.weight.data.copy_((old[name].float() + delta).to(old[name].dtype))
                    on[name] = layer

        try:
            yield to_step
        finally:
            for name, module in modules.items():
                module.weight.data.copy_(old[name])

    def _layer(self, name: str, step: int, steps: int) -> LoraLayer:
        if name not in self.ratios:
            return self.content.layers.get(name) or self.style.layers[name]
        lora = self.content if self.picks_content(name, step, steps) else self.style
        return lora.layers[name]


def _ratio(content: float, style: float, gamma: float) -> float:
    """Return S_c/(γ·S_s), which is infinite for a style layer of zeros, so that the content stays on."""
    if style == 0:
        return float("inf")
    return content / (gamma * style) if gamma > 0 else 0.0
