"""Treat colours as a style does: towards a gradient of two or three inks, as far as `strength`."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Palette:
    """How a style changes colour. Colours are sRGB in [0, 1]."""

    inks: tuple[Rgb, ...]  # from the darkest tone to the lightest
    paper: Rgb  # what is under the ink
    strength: float  # 0 keeps the subject's own colours, 1 leaves only their tone, drawn in the inks
    saturation: float = 1.0  # of the own colours
    contrast: float = 1.0  # about mid grey

    def apply(self, albedo: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
        """Return the colours in this palette, same shape, in [0, 1]."""
        value = tone(albedo)
        own = value[..., None] + (albedo - value[..., None]) * np.float32(self.saturation)
        mapped = self.mapped(value)
        mixed = own + (mapped - own) * np.float32(self.strength)
        return np.clip(0.5 + (mixed - 0.5) * np.float32(self.contrast), 0.0, 1.0).astype(np.float32)

    def mapped(self, value: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
        """Return the inks' gradient at tones in [0, 1]."""
        stops = np.linspace(0, 1, len(self.inks))
        channels = [np.interp(value, stops, [ink[channel] for ink in self.inks]) for channel in range(3)]
        return np.stack(channels, -1).astype(np.float32)

    def distance(self, other: Palette) -> float:
        """Return how far apart two palettes are: 0 for the same, about 1 for unrelated ones."""
        return float(np.abs(self._vector() - other._vector()).mean() * 2.5)

    def _vector(self) -> np.ndarray:
        sample = self.mapped(np.linspace(0, 1, 5)).ravel() * self.strength
        own = [self.strength, (1 - self.strength) * self.saturation, self.contrast - 1]
        return np.concatenate((sample, self.paper, own))


def tone(albedo: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape"]:
    """Return the lightness in [0, 1] in which red and yellow are lighter than blue: equal luminances stay apart."""
    red, green, blue = np.moveaxis(albedo, -1, 0)
    return np.clip(0.42 * red + 0.46 * green + 0.12 * blue, 0.0, 1.0)


def hsv(hue: float, saturation: float, value: float) -> Rgb:
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


@dataclass(frozen=True)
class PaletteRange:
    """What palettes a family's styles have."""

    strength: tuple[float, float] = (0.2, 0.75)
    dark: tuple[float, float] = (0.1, 0.35)  # value of the darkest ink
    paper: tuple[float, float] = (0.82, 1.0)  # value of the paper
    paper_saturation: float = 0.16
    paper_hue: tuple[float, float] = (0.0, 1.0)
    saturation: tuple[float, float] = (0.8, 1.4)
    hue: tuple[float, float] = (0.0, 1.0)  # of the inks
    ink_saturation: tuple[float, float] = (0.3, 0.85)

    def sample(self, rng: np.random.Generator) -> Palette:
        hue, dark = rng.uniform(*self.hue), rng.uniform(*self.dark)
        width = min(1.0, self.hue[1] - self.hue[0])
        turn = rng.choice([-1, 1]) * rng.uniform(0.06, 0.35) * width
        vivid = rng.uniform(*self.ink_saturation)
        inks = (
            hsv(hue, vivid, dark),
            hsv(hue + turn, vivid, 0.45 + 0.5 * dark + rng.uniform(-0.05, 0.1)),
            hsv(hue + 2 * turn, vivid * 0.35, rng.uniform(0.88, 1.0)),
        )
        least = 0.6 * self.paper_saturation if self.paper_hue != (0.0, 1.0) else 0.0
        paper = hsv(rng.uniform(*self.paper_hue), rng.uniform(least, self.paper_saturation), rng.uniform(*self.paper))
        return Palette(inks, paper, rng.uniform(*self.strength), rng.uniform(*self.saturation), rng.uniform(0.9, 1.2))
