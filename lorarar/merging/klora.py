"""K-LoRA (arXiv 2502.18461): each layer uses one of the two LoRAs, whole, at each step. Nothing is trained.

A layer takes the content LoRA at step t of T when

    S_c / (γ·S_s) > α·t/T + β,

S being the sum of the K = r_c·r_s largest |ΔW| entries of the layer, and γ the mean over layers of Σ|ΔW_c| / Σ|ΔW_s|,
which makes LoRAs of different strength comparable. The right side grows, so that content is favoured early, where the
shape is settled, and style late; a layer switches at most once. The result is not one LoRA file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.layout import UNET
from lorarar.lora import LoRA, LoraLayer

if TYPE_CHECKING:
    from torch import nn

ALPHA, BETA = 1.5, 0.5  # the released code's for SDXL
OnStep = Callable[[int, int], None]
"""Called before step t of T with (t, T)."""


def top_sum(delta: Float[np.ndarray, "..."], count: int) -> float:
    """Return the sum of the `count` largest magnitudes (of all of them when there are fewer)."""
    magnitudes = np.abs(delta).ravel()
    count = min(count, magnitudes.size)
    return float(np.partition(magnitudes, magnitudes.size - count)[magnitudes.size - count :].sum(dtype=np.float64))


@dataclass(frozen=True)
class KLoRA:
    """A plan: two LoRAs and, for each layer that both have, the ratio S_c/(γ·S_s)."""

    content: LoRA
    style: LoRA
    ratios: Mapping[str, float]
    alpha: float = ALPHA
    beta: float = BETA

    @classmethod
    def plan(cls, content: LoRA, style: LoRA, alpha: float = ALPHA, beta: float = BETA) -> KLoRA:
        """Compare the two LoRAs layer by layer. Raises InputError when they have no layer in common."""
        names = [name for name in content.layers if name in style.layers]
        if not names:
            raise InputError(f"{content.source} and {style.source} have no layer in common; are they for one base?")
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
        return cls(content, style, {name: _ratio(*tops[name], gamma) for name in names}, alpha, beta)

    def picks_content(self, layer: str, step: int, steps: int) -> bool:
        """Tell whether the layer uses the content LoRA at step `step` (from 0) of `steps`."""
        return self.ratios[layer] > self.alpha * step / steps + self.beta

    @contextmanager
    def applied(self, unet: nn.Module) -> Iterator[OnStep]:
        """Give the UNet the layers of each step; the weights are exactly the old ones afterwards.

        Call what is yielded before every step. Layers that only one LoRA has are on at all steps. Raises InputError
        for a layer that the UNet does not have.
        """
        switch = _Switch(self, unet)
        try:
            yield switch.to_step
        finally:
            switch.restore()


class _Switch:
    """A UNet's weights without a LoRA, and which layer of a LoRA each module has on."""

    def __init__(self, plan: KLoRA, unet: nn.Module) -> None:
        self.plan = plan
        modules = dict(unet.named_modules())
        names = dict.fromkeys([*plan.content.layers, *plan.style.layers])
        unknown = [name for name in names if name.removeprefix(UNET) not in modules or not name.startswith(UNET)]
        if unknown:
            raise InputError(f"{unknown[0]} is not a layer of this UNet; the LoRA is for another base or for more")
        self.modules = {name: modules[name.removeprefix(UNET)] for name in names}
        self.base = {name: module.weight.detach().clone() for name, module in self.modules.items()}
        self.on: dict[str, LoraLayer] = {}

    def to_step(self, step: int, steps: int) -> None:
        """Give every module the layer of step `step` of `steps`."""
        for name in self.modules:
            wanted = self._wanted(name, step, steps)
            if self.on.get(name) is not wanted:
                self._put(name, wanted)

    def restore(self) -> None:
        """Put the old weights back, bit for bit."""
        for name, module in self.modules.items():
            module.weight.data.copy_(self.base[name])

    def _wanted(self, name: str, step: int, steps: int) -> LoraLayer:
        if name not in self.plan.ratios:
            return self.plan.content.layers.get(name) or self.plan.style.layers[name]
        lora = self.plan.content if self.plan.picks_content(name, step, steps) else self.plan.style
        return lora.layers[name]

    def _put(self, name: str, layer: LoraLayer) -> None:
        import torch

        weight = self.modules[name].weight.data
        delta = torch.from_numpy(layer.delta()).to(weight.device)
        # Added in fp32 and rounded once, as a fused LoRA is.
        weight.copy_((self.base[name].float() + delta).to(weight.dtype))
        self.on[name] = layer


def _ratio(content: float, style: float, gamma: float) -> float:
    """Return S_c/(γ·S_s), which is infinite for a style layer of zeros, so that the content stays on."""
    if style == 0:
        return float("inf")
    return content / (gamma * style) if gamma > 0 else 0.0
