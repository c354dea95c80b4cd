"""Draw what is behind and under a subject: soft, pale colours from which it stands out."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from miniature.buffers import BACKGROUND, GROUND
from miniature.figure import SQUARE, Outline, ellipse, frame, smooth
from miniature.subjects import RGB

Layer = tuple[Outline, RGB, int]
"""An outline in the picture's coordinates (±1 both ways, y down), its colour, BACKGROUND or GROUND."""


@dataclass(frozen=True)
class Backdrop:
    kind: str  # a key of BACKDROPS
    colours: tuple[RGB, RGB, RGB]  # behind, ground, and things
    seed: int  # places of the things


def sample_backdrop(rng: np.random.Generator) -> Backdrop:
    hues = rng.random() + np.array((0.0, 0.2, 0.4)) * rng.choice((-1, 1)) + rng.normal(0, 0.04, 3)
    tones = rng.uniform((0.76, 0.62, 0.66), (0.88, 0.74, 0.92))
    greys = rng.uniform(0.12, 0.3, 3)
    first, second, third = (
        colorsys.hsv_to_rgb(float(hue % 1), float(grey), float(tone))
        for hue, grey, tone in zip(hues, greys, tones, strict=True)
    )
    return Backdrop(str(rng.choice(list(BACKDROPS))), (first, second, third), int(rng.integers(2**31)))


def backdrop_layers(backdrop: Backdrop) -> list[Layer]:
    """Return the layers from the farthest to the nearest; the first fills the picture."""
    rng = np.random.default_rng(backdrop.seed)
    behind, ground, things = backdrop.colours
    return [(SQUARE * 1.1, behind, BACKGROUND), *BACKDROPS[backdrop.kind](rng, behind, ground, things)]


def _floor(y: float, colour: RGB) -> Layer:
    return (np.array(((-1.1, y), (1.1, y), (1.1, 1.1), (-1.1, 1.1))), colour, GROUND)


def plain(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    return []


def horizon(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    sun = frame(rng.uniform(-0.75, 0.75), rng.uniform(-0.75, -0.3), 0.24)
    return [(sun.at(ellipse(0, 0, 1)), things, BACKGROUND), _floor(rng.uniform(0.3, 0.6), ground)]


def room(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    floor = rng.uniform(0.45, 0.65)
    x, y = rng.choice((-0.62, 0.62)) + rng.uniform(-0.1, 0.1), rng.uniform(-0.6, -0.4)
    panes = [
        (frame(x + a * 0.155, y + b * 0.165, 0.13, 0.14).at(SQUARE), _mixed(things, (1.0, 1.0, 1.0)), BACKGROUND)
        for a in (-1, 1)
        for b in (-1, 1)
    ]
    skirting = (frame(0, floor - 0.04, 1.1, 0.05).at(SQUARE), _mixed(behind, things), BACKGROUND)
    return [(frame(x, y, 0.34, 0.36).at(SQUARE), things, BACKGROUND), *panes, skirting, _floor(floor, ground)]


def hills(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    far, near = rng.uniform(-0.2, 0.1), rng.uniform(0.35, 0.55)
    xs = np.linspace(-1.4, 1.4, 6)
    ridge = [(float(x), float(far + rng.uniform(-0.22, 0.22))) for x in xs]
    return [
        (smooth([*ridge, (1.6, 1.3), (-1.6, 1.3)]), _mixed(behind, ground), BACKGROUND),
        (ellipse(rng.uniform(-0.4, 0.4), near + 1.2, 2.2, 1.2), ground, GROUND),
    ]


def sky(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    white = _mixed(behind, (1.0, 1.0, 1.0))
    layers: list[Layer] = []
    for x in (-0.65, 0.6):
        cloud = frame(x + rng.uniform(-0.2, 0.2), rng.uniform(-0.8, -0.2), rng.uniform(0.8, 1.1))
        puffs = ((-0.2, 0.02, 0.16), (0.0, -0.08, 0.2), (0.22, 0.02, 0.15))
        layers += [(cloud.at(ellipse(*puff)), white, BACKGROUND) for puff in puffs]
    return [*layers, _floor(rng.uniform(0.6, 0.75), ground)]


def trees(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    floor = rng.uniform(0.3, 0.5)
    layers: list[Layer] = []
    for x in (-0.8, -0.25, 0.3, 0.85):
        at = frame(x + rng.uniform(-0.12, 0.12), floor, rng.uniform(0.8, 1.3))
        layers.append((at.inner(0, -0.15, 0.05, 0.2).at(SQUARE), _mixed(things, (0.4, 0.3, 0.3)), BACKGROUND))
        layers.append((at.at(ellipse(0, -0.5, 0.24, 0.32)), _mixed(things, behind), BACKGROUND))
    return [*layers, _floor(floor, ground)]


def wall(rng: np.random.Generator, behind: RGB, ground: RGB, things: RGB) -> list[Layer]:
    shift = rng.uniform(-0.2, 0.2)
    stripes = [
        (frame(x + shift, 0, 0.14, 1.2).at(SQUARE), _mixed(behind, things), BACKGROUND)
        for x in np.arange(-1.2, 1.3, 0.56)
    ]
    return [*stripes, _floor(rng.uniform(0.5, 0.7), ground)]


def _mixed(first: RGB, second: RGB) -> RGB:
    red, green, blue = ((a + b) / 2 for a, b in zip(first, second, strict=True))
    return (red, green, blue)


BACKDROPS: Mapping[str, Callable[[np.random.Generator, RGB, RGB, RGB], list[Layer]]] = {
    draw.__name__: draw for draw in (plain, horizon, room, hills, sky, trees, wall)
}
