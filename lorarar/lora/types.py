"""A LoRA in memory: for each module the two factors, alpha already folded in. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class LoraLayer:
    """One module's update ΔW = up @ down, in float32.

    A linear layer has down (rank, in) and up (out, rank). A LoCon convolution has down (rank, in, kh, kw) and
    up (out, rank, 1, 1).
    """

    down: Float[np.ndarray, "rank inp *kernel"]
    up: Float[np.ndarray, "out rank *ones"]

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def in_features(self) -> int:
        return int(self.down.shape[1])

    @property
    def out_features(self) -> int:
        return int(self.up.shape[0])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that the layer updates: (out, in), or (out, in, kh, kw) for a convolution."""
        return (self.out_features, *self.down.shape[1:])

    def delta(self) -> Float[np.ndarray, "out inp *kernel"]:
        """The dense update ΔW, of the shape of the module's weight."""
        flat = self.up.reshape(self.out_features, self.rank) @ self.down.reshape(self.rank, -1)
        return flat.reshape(self.weight_shape)

    def squared_norm(self) -> float:
        """‖ΔW‖² (Frobenius) from the factors alone, in float64: tr((upᵀup)(down downᵀ))."""
        down = self.down.reshape(self.rank, -1).astype(np.float64)
        up = self.up.reshape(self.out_features, self.rank).astype(np.float64)
        return max(0.0, float(np.sum((up.T @ up) * (down @ down.T))))


@dataclass(frozen=True)
class LoRA:
    """Layers by full module name: the component (`unet`, `text_encoder`, `text_encoder_2`), a dot, the module's name
    in diffusers' `named_modules()`, for example `unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`.
    """

    layers: Mapping[str, LoraLayer]
    dialect: str = "memory"
    source: str = "memory"
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what reading found: "176 layers, ranks 4–64, alpha in 176"

    @property
    def max_rank(self) -> int:
        return max((layer.rank for layer in self.layers.values()), default=0)
