"""One layer of a LoRA in memory: the two factors, alpha already folded in. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
"""The components of a pipeline, in diffusers' words, that a LoRA may have layers of."""


@dataclass(frozen=True, eq=False, repr=False)
class LoraLayer:
    """One module's update ΔW = up @ down, in float32.

    A linear layer has down (rank, in) and up (out, rank). A LoCon convolution has down (rank, in, kh, kw) and
    up (out, rank, 1, 1).
    """

    down: Float[np.ndarray, "rank inp *kernel"]
    up: Float[np.ndarray, "out rank *ones"]

    def __repr__(self) -> str:
        return f"LoraLayer({'×'.join(map(str, self.weight_shape))}, rank {self.rank})"

    @property
    def rank(self) -> int:
        """The number of rows of `down` and of columns of `up`."""
        return int(self.down.shape[0])

    @property
    def in_features(self) -> int:
        """The number of inputs (channels, for a convolution) of the module."""
        return int(self.down.shape[1])

    @property
    def out_features(self) -> int:
        """The number of outputs (channels, for a convolution) of the module."""
        return int(self.up.shape[0])

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The shape of the weight that the layer updates: (out, in), or (out, in, kh, kw) for a convolution."""
        return (self.out_features, *self.down.shape[1:])

    def delta(self) -> Float[np.ndarray, "out inp *kernel"]:
        """Compute the dense update ΔW, of the shape of the module's weight."""
        flat = self.up.reshape(self.out_features, self.rank) @ self.down.reshape(self.rank, -1)
        return flat.reshape(self.weight_shape)

    def squared_norm(self) -> float:
        """Compute ‖ΔW‖² (Frobenius) from the factors alone, in float64: tr((upᵀup)(down downᵀ))."""
        down = self.down.reshape(self.rank, -1).astype(np.float64)
        up = self.up.reshape(self.out_features, self.rank).astype(np.float64)
        return max(0.0, float(np.sum((up.T @ up) * (down @ down.T))))
