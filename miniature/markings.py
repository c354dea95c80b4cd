"""Outline markings that are painted on a body, in the body's own frame: they move and turn with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from miniature.figure import CIRCLE, HEART, SQUARE, Frame, Outline, smooth, star

# Half size of the smallest marking, in figure units. The figure is about 2 units and 80 pixels wide, so 4 pixels.
FINEST = 0.075


def marking_outlines(marking: str, at: Frame) -> list[Outline]:
    """Return a marking's outlines in figure units; the caller clips them to the body. Empty for a plain body."""
    return [] if marking == "plain" else MARKING_SHAPES[marking](at)


def _scattered(at: Frame, shape: Outline, places: Sequence[tuple[float, float]], size: float) -> list[Outline]:
    """Return the shape at places of the frame, undistorted by it, `size` of the frame's smaller half size."""
    wide, tall = at.half_sizes
    radius = max(FINEST, size * min(wide, tall))
    return [at.inner(x, y, radius / wide, radius / tall).at(shape) for x, y in places]


def _patches(at: Frame) -> list[Outline]:
    upper_left = ((-1.1, -0.5), (-0.5, -1.1), (-0.15, -0.6), (-0.35, -0.05), (-0.9, 0.1))
    right = ((0.35, -0.3), (0.8, -0.55), (1.1, 0.0), (0.85, 0.4), (0.45, 0.25))
    lower = ((-0.45, 0.5), (0.05, 0.3), (0.4, 0.7), (0.1, 1.1), (-0.5, 1.0))
    return [at.at(smooth(patch)) for patch in (upper_left, right, lower)]


def _stripes(at: Frame) -> list[Outline]:
    count = max(2, round(at.half_sizes[0] / (2.1 * FINEST) / 1.1))
    centres = (np.arange(count) + 0.5) * 2 / count - 1
    return [at.inner(float(x), 0, 0.5 / count, 1.3).at(SQUARE) for x in centres]


def _checks(at: Frame) -> list[Outline]:
    columns, rows = (max(2, round(half / (1.3 * FINEST))) for half in at.half_sizes)
    return [
        at.inner((column + 0.5) * 2 / columns - 1, (row + 0.5) * 2 / rows - 1, 1 / columns, 1 / rows).at(SQUARE)
        for column in range(columns)
        for row in range(rows)
        if (column + row) % 2 == 0
    ]


def _band(at: Frame) -> list[Outline]:
    return [at.inner(0, 0.05, 1.3, 0.3).at(SQUARE)]


def _zigzag(at: Frame) -> list[Outline]:
    xs = np.linspace(-1.25, 1.25, 7)
    ys = np.where(np.arange(7) % 2 == 0, 0.32, -0.32)
    upper, lower = np.stack((xs, ys - 0.2), 1), np.stack((xs, ys + 0.2), 1)
    return [at.at(np.concatenate((upper, lower[::-1])))]


_SPOTS = ((-0.62, -0.12), (-0.12, -0.58), (0.48, -0.38), (0.02, 0.2), (0.66, 0.3), (-0.5, 0.62), (0.22, 0.78))
_STARS = ((-0.45, -0.3), (0.48, -0.35), (0.05, 0.4), (-0.75, 0.55), (0.8, 0.5))
MARKING_SHAPES: Mapping[str, Callable[[Frame], list[Outline]]] = {
    "spots": partial(_scattered, shape=CIRCLE, places=_SPOTS, size=0.24),
    "stars": partial(_scattered, shape=star(), places=_STARS, size=0.4),
    "heart": partial(_scattered, shape=HEART, places=((0.0, 0.0),), size=0.7),
    "patches": _patches,
    "stripes": _stripes,
    "checks": _checks,
    "band": _band,
    "zigzag": _zigzag,
}
