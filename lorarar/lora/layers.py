"""One layer of a LoRA in memory (two factors, alpha folded in) and exact operations on factors. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.lora.codes import Factor, as_float32, peak, put

Shape = tuple[int, ...]
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
"""The components of a pipeline, in diffusers' words, that a LoRA may have layers of."""
Blocks = Sequence[tuple[Factor, Factor]]
"""A layer in parts along the rank: (down, up) of each, whose products add up to ΔW."""


@dataclass(frozen=True, eq=False, repr=False)
class LoraLayer:
    """One module's update ΔW = up @ down, in float32.

    A linear layer has down (rank, in) and up (out, rank). A LoCon convolution has down (rank, in, kh, kw) and
    up (out, rank, 1, 1).
    """

    down: Float[np.ndarray, "rank inp *kernel"]
    up: Float[np.ndarray, "out rank *ones"]

    def __post_init__(self) -> None:
        """Refuse what is no array of float32, and factors that have no product: numpy would repeat one of rank 1."""
        for name, factor in (("down", self.down), ("up", self.up)):
            if not isinstance(factor, np.ndarray):
                raise InputError(f"`{name}` is a {type(factor).__name__}; give a numpy array")
            if factor.dtype != np.float32:
                raise InputError(f"`{name}` holds {factor.dtype}; give float32, by .astype(np.float32)")
        down, up = self.down.shape, self.up.shape
        if min(len(down), len(up)) < 2 or down[0] != up[1] or up[2:] != (1,) * (len(down) - 2):
            raise InputError(
                f"`down` of shape {down} and `up` of shape {up} have no product; give them as (rank, in) and "
                "(out, rank), those of a convolution as (rank, in, height, width) and (out, rank, 1, 1), of one rank"
            )
        if 0 in self.weight_shape:
            raise InputError(f"`down` and `up` are for a weight of shape {self.weight_shape}, which has no numbers")

    def __repr__(self) -> str:
        return f"LoraLayer({'×'.join(map(str, self.weight_shape))}, rank {self.rank})"

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """The shapes of `down` and `up`."""
        return self.down.shape, self.up.shape

    def load(self) -> LoraLayer:
        """Return the layer with its factors in memory, which this one is."""
        return self

    def blocks(self) -> Blocks:
        """Return the factors in parts along the rank, (down, up) each, as they are kept."""
        return ((self.down, self.up),)

    @property
    def rank(self) -> int:
        """The number of rows of `down` and of columns of `up`."""
        return int(self.shapes[0][0])

    @property
    def in_features(self) -> int:
        """The number of inputs (channels, for a convolution) of the module."""
        return int(self.shapes[0][1])

    @property
    def out_features(self) -> int:
        """The number of outputs (channels, for a convolution) of the module."""
        return int(self.shapes[1][0])

    @property
    def weight_shape(self) -> Shape:
        """The shape of the weight that the layer updates: (out, in), or (out, in, kh, kw) for a convolution."""
        return (self.out_features, *self.shapes[0][1:])

    def delta(self) -> Float[np.ndarray, "out inp *kernel"]:
        """Compute the dense update ΔW, of the shape of the module's weight."""
        layer = self.load()
        flat = layer.up.reshape(self.out_features, self.rank) @ layer.down.reshape(self.rank, -1)
        return flat.reshape(self.weight_shape)

    def squared_norm(self) -> float:
        """Compute ‖ΔW‖² (Frobenius) in float64: from ΔW, or as tr((upᵀup)(down downᵀ)) where rank × rank is smaller."""
        layer = self.load()
        down = layer.down.reshape(self.rank, -1).astype(np.float64)
        up = layer.up.reshape(self.out_features, self.rank).astype(np.float64)
        if len(up) * down.shape[1] < self.rank**2:
            return float(np.sum((up @ down) ** 2))
        return max(0.0, float(np.sum((up.T @ up) * (down @ down.T))))


class StoredLayer(LoraLayer):
    """A layer whose factors are read from a file, or made of those of others, each time that they are asked for.

    `load` once where both are needed. Layers that nobody keeps let files of any size be merged one layer at a time.
    """

    _shapes: tuple[Shape, Shape]
    _blocks: Callable[[], Blocks]

    def __init__(self, shapes: tuple[Shape, Shape], blocks: Callable[[], Blocks]) -> None:
        object.__setattr__(self, "_shapes", shapes)  # the class above is frozen
        object.__setattr__(self, "_blocks", blocks)

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """The shapes of `down` and `up`, which are known without them."""
        return self._shapes

    def load(self) -> LoraLayer:
        """Return the layer with its factors in memory, in float32."""
        parts = [(as_float32(down), as_float32(up)) for down, up in self._blocks()]
        if len(parts) == 1:
            return LoraLayer(*parts[0])
        return LoraLayer(np.concatenate([down for down, _ in parts]), np.concatenate([up for _, up in parts], axis=1))

    def blocks(self) -> Blocks:
        """Return the factors in parts along the rank, as the file or files store them where they are so kept."""
        return self._blocks()

    @property
    def down(self) -> Float[np.ndarray, "rank inp *kernel"]:
        """The first factor, which is read."""
        return self.load().down

    @property
    def up(self) -> Float[np.ndarray, "out rank *ones"]:
        """The second factor, which is read."""
        return self.load().up


def when_loaded(layers: Sequence[LoraLayer], shapes: tuple[Shape, Shape], blocks: Callable[[], Blocks]) -> LoraLayer:
    """Make a layer of others: now where these are in memory, else each time that it is asked for."""
    made = StoredLayer(shapes, blocks)
    return made if any(isinstance(layer, StoredLayer) for layer in layers) else made.load()


def concatenate(layers: Sequence[LoraLayer], weights: Sequence[float]) -> LoraLayer:
    """Return the layer whose ΔW is Σ weightᵢ·ΔWᵢ: factors joined along the rank, the weights applied to `up`.

    up = [w₁·up₁, w₂·up₂, …] and down = [down₁; down₂; …], of rank Σ rankᵢ, for linear and convolution layers. The
    weights go where alpha went, so `down` keeps its values. Raises InputError when the layers are of different modules'
    shapes or there are none.
    """
    if not layers or len(layers) != len(weights):
        raise InputError(f"{len(layers)} layers and {len(weights)} weights can't be joined; give one weight a layer")
    shapes = {layer.weight_shape for layer in layers}
    if len(shapes) > 1:
        raise InputError(f"layers of shapes {sorted(shapes)} can't be joined; both LoRAs must be for one base model")
    return _joined(layers, up=[np.array(weight, np.float32) for weight in weights])


def join_columns(layers: Sequence[LoraLayer], weights: Sequence[np.ndarray | float]) -> LoraLayer:
    """Return the layer whose ΔW is Σ ΔWᵢ·diag(weightᵢ): [up₁, up₂, …]·[down₁·diag(w₁); down₂·diag(w₂); …].

    The layers are of one shape. A weight is a number, or one for each input of a linear (in).
    """
    return _joined(layers, down=[np.asarray(weight, np.float32) for weight in weights])


def _joined(
    layers: Sequence[LoraLayer], down: Sequence[np.ndarray] | None = None, up: Sequence[np.ndarray] | None = None
) -> LoraLayer:
    """Join layers along the rank, one of the factors times weights."""
    (_, *inp), (out, _, *ones) = layers[0].shapes
    rank, one = sum(layer.rank for layer in layers), [np.ones((), np.float32)] * len(layers)

    def blocks() -> Blocks:
        return [
            (_times(block_down, by_down), _times(block_up, by_up))
            for layer, by_down, by_up in zip(layers, down or one, up or one, strict=True)
            for block_down, block_up in layer.blocks()
        ]

    return when_loaded(layers, ((rank, *inp), (out, rank, *ones)), blocks)


def _times(factor: Factor, weights: np.ndarray) -> Factor:
    """Multiply a factor by a number, or a `down` by one for each input; what is stored in few bits stays so if it can.

    An array is never returned itself, since what is made of a LoRA may be written to.
    """
    if weights.ndim:
        return as_float32(factor) * weights
    return factor * np.float32(weights)


def pad_rank(layer: LoraLayer, rank: int) -> LoraLayer:
    """Return the same ΔW at a higher rank: zero rows below `down`, zero columns after `up`.

    Raises InputError when `rank` is below the layer's.
    """
    more = rank - layer.rank
    if more < 0:
        raise InputError(f"a layer of rank {layer.rank} doesn't fit in rank {rank}; use rank {layer.rank} or more")
    if more == 0:
        return layer
    down = np.concatenate([layer.down, np.zeros((more, *layer.down.shape[1:]), np.float32)])
    up = np.concatenate([layer.up, np.zeros((layer.out_features, more, *layer.up.shape[2:]), np.float32)], axis=1)
    return LoraLayer(down, up)


def fill(layer: LoraLayer, down: np.ndarray, up: np.ndarray) -> tuple[float, float]:
    """Write a layer's factors into the first rows of `down` and columns of `up`, balanced if these are not float32.

    Returns the largest magnitudes that were to be written, which may be NaN or beyond the arrays' type.
    """
    blocks = layer.blocks()
    peaks = [float(np.max([peak(factor) for factor in factors])) for factors in zip(*blocks, strict=True)]
    by = np.float32(1) if down.dtype == np.float32 or not all(map(np.isfinite, peaks)) else balance_factor(*peaks)
    start = 0
    with np.errstate(over="ignore"):
        for block_down, block_up in blocks:
            rows = slice(start, start + block_down.shape[0])
            put(block_down, by, down[rows])
            put(block_up, 1 / by, up[:, rows])
            start = rows.stop
    return peaks[0] * float(by), peaks[1] / float(by)


def balance_factor(peak_down: float, peak_up: float) -> np.float32:
    """Return the power of two f for which down·f and up/f have about equal peaks; multiplying by it rounds nothing.

    Half precision holds 6e-8 … 65504, and alpha folded into `up` can leave that range where the product does not. f and
    1/f are normal numbers of float32, which those of a hostile file's peaks are not.
    """
    if peak_down == 0 or peak_up == 0:
        return np.float32(1)
    return np.float32(2.0 ** np.clip(np.round((np.log2(peak_up) - np.log2(peak_down)) / 2), -126, 126))
