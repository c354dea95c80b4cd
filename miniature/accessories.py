"""Lay what subjects wear at the anchors of their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from miniature.figure import CIRCLE, Figure, Outline, add_petals, ellipse, limb, rounded, shade, smooth, stroke
from miniature.subjects import RGB

CENTRE: RGB = (0.99, 0.86, 0.36)
# How far accessories reach, in the coordinates of the anchors they are laid at.
REACH: Mapping[str, Outline] = {
    "top": np.array(((-1.17, 0.25), (1.17, 0.25), (-0.95, -0.85), (1.15, -0.85), (-0.2, -1.28), (0.2, -1.28))),
    "face": np.array(((-1.85, -0.85), (1.85, -0.85), (-1.85, 0.85), (1.85, 0.85))),
    "sides": np.array(((-1.28, -0.4), (1.28, -0.4), (-1.28, 0.5), (1.28, 0.5), (-0.5, -1.2), (0.5, -1.2))),
}


def room(figure: Figure) -> Outline:
    """Return points between which lies whatever the figure may wear on its head."""
    return np.concatenate([getattr(figure, anchor).at(reach) for anchor, reach in REACH.items()])


def hat(figure: Figure, colour: RGB) -> None:
    figure.top.add(smooth(((-0.62, 0.1), (-0.52, -0.82), (0.52, -0.82), (0.62, 0.1)), steps=3), colour)
    figure.top.add(limb((-0.57, -0.12), (0.57, -0.12), 0.1), shade(colour, 0.6))
    figure.top.add(ellipse(0, 0.1, 1.15, 0.2), colour)


def crown(figure: Figure, colour: RGB) -> None:
    points = ((-0.75, 0.2), (-0.9, -0.75), (-0.4, -0.3), (0, -0.9), (0.4, -0.3), (0.9, -0.75), (0.75, 0.2))
    figure.top.add(np.array(points), colour)
    figure.top.add(limb((-0.68, 0.1), (0.68, 0.1), 0.14), shade(colour, 0.75))


def party_hat(figure: Figure, colour: RGB) -> None:
    figure.top.add(np.array(((-0.78, 0.2), (0.0, -1.15), (0.78, 0.2))), colour)
    figure.top.add(np.array(((-0.57, -0.16), (-0.35, -0.54), (0.48, -0.32), (0.66, -0.01))), shade(colour, 0.65))
    figure.top.add(ellipse(0, -1.02, 0.24), CENTRE)


def bow(figure: Figure, colour: RGB) -> None:
    at = figure.top.inner(0.25, -0.05, 1, angle=12)
    for side in (-1, 1):
        at.add(smooth(((0, 0), (side * 0.78, -0.55), (side * 0.9, 0), (side * 0.78, 0.5)), steps=4), colour)
    at.add(ellipse(0, 0, 0.24), shade(colour, 0.7))


def flower(figure: Figure, colour: RGB) -> None:
    at = figure.top.inner(0.4, -0.1, 0.72)
    add_petals(at, -0.56, 0.44, colour)
    at.add(ellipse(0, 0, 0.34), CENTRE)


def scarf(figure: Figure, colour: RGB) -> None:
    figure.neck.add(smooth(((0.35, 0.1), (0.85, 0.1), (1.0, 1.15), (0.5, 1.2)), steps=4), shade(colour))
    figure.neck.add(stroke(((-1.0, -0.18), (0, 0.16), (1.0, -0.18)), 0.3), colour)


def glasses(figure: Figure, colour: RGB) -> None:
    figure.face.add(limb((-0.4, 0), (0.4, 0), 0.15), colour)
    ring = np.concatenate((CIRCLE, CIRCLE[:1], (CIRCLE * 0.64)[::-1], CIRCLE[-1:] * 0.64))
    for side in (-1, 1):
        figure.face.inner(side, 0, 0.82).add(ring, colour)


def headphones(figure: Figure, colour: RGB) -> None:
    arch = ((-1.0, 0.0), (-0.78, -0.72), (0, -1.06), (0.78, -0.72), (1.0, 0.0))
    figure.sides.add(stroke(arch, 0.11), shade(colour, 0.7))
    for side in (-1, 1):
        figure.sides.inner(side, 0.05, 0.24, 0.38).add(rounded(3), colour)


_DRAWN = (hat, crown, party_hat, bow, flower, scarf, glasses, headphones)
ACCESSORIES: Mapping[str, Callable[[Figure, RGB], None]] = {draw.__name__.replace("_", " "): draw for draw in _DRAWN}
"""What lays an accessory of a colour on a figure."""
