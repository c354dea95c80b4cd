"""Outlines and figures: a subject as polygons in its own units, where it is about 2 wide, y points down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from miniature.subjects import RGB

INK: RGB = (0.13, 0.11, 0.14)
WHITE: RGB = (1.0, 1.0, 1.0)
STEEL: RGB = (0.72, 0.74, 0.78)

Real = float | int
"""A number in an outline; at run time an int is no float."""

Outline = Float[np.ndarray, "points 2"]


@dataclass(frozen=True)
class Frame:
    """A coordinate system inside a figure: where a part's own coordinates come to lie."""

    matrix: Float[np.ndarray, "2 2"]
    origin: Float[np.ndarray, "2"]

    def at(self, points: Outline) -> Outline:
        return points @ self.matrix.T + self.origin

    def inner(self, x: Real, y: Real, width: Real = 1.0, height: Real | None = None, angle: Real = 0.0) -> Frame:
        """Return a frame that is given in this one's coordinates, as in `frame`."""
        inside = frame(x, y, width, height, angle)
        return Frame(self.matrix @ inside.matrix, self.matrix @ inside.origin + self.origin)

    def point(self, x: Real, y: Real) -> tuple[float, float]:
        moved = self.matrix @ np.array((x, y)) + self.origin
        return float(moved[0]), float(moved[1])

    @property
    def half_sizes(self) -> tuple[float, float]:
        """Return the lengths of its two axes, in figure units."""
        lengths = np.sqrt((self.matrix**2).sum(0))
        return float(lengths[0]), float(lengths[1])


def frame(x: Real, y: Real, width: Real = 1.0, height: Real | None = None, angle: Real = 0.0) -> Frame:
    """Make a frame of its centre, half sizes (height as width unless given) and turn in degrees (clockwise)."""
    turn = np.radians(angle)
    cosine, sine = np.cos(turn), np.sin(turn)
    matrix = np.array(((cosine, -sine), (sine, cosine))) * (width, width if height is None else height)
    return Frame(matrix, np.array((x, y), dtype=float))


_TURNS = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE: np.ndarray = np.stack((np.cos(_TURNS), np.sin(_TURNS)), 1)
SQUARE: np.ndarray = np.array(((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)))


def ellipse(x: Real, y: Real, width: Real, height: Real | None = None, angle: Real = 0.0) -> Outline:
    """Make an ellipse of its centre, half sizes and turn, as in `frame`."""
    return frame(x, y, width, height, angle).at(CIRCLE)


def rounded(power: Real = 4.0) -> Outline:
    """Return a superellipse within ±1: a circle at 2, closer to a square with a larger power."""
    return np.sign(CIRCLE) * np.abs(CIRCLE) ** (2 / power)


def limb(start: tuple[Real, Real], end: tuple[Real, Real], first: Real, last: Real | None = None) -> Outline:
    """Return a round-ended limb: radius `first` at the start, `last` at the end."""
    a, b = np.array(start, dtype=float), np.array(end, dtype=float)
    heading = np.arctan2(*(b - a)[::-1])
    half = np.linspace(np.pi / 2, 3 * np.pi / 2, 9) + heading
    cap = np.stack((np.cos(half), np.sin(half)), 1)
    return np.concatenate((a + first * cap, b - (first if last is None else last) * cap))


def smooth(points: Sequence[tuple[Real, Real]], closed: bool = True, steps: int = 6) -> Outline:
    """Return a Catmull–Rom curve through the points."""
    knots = np.array(points, dtype=float)
    knots = np.concatenate((knots[-1:], knots, knots[:2])) if closed else np.concatenate((knots[:1], knots, knots[-1:]))
    before, start, end, after = (knots[shift : len(knots) - 3 + shift, None] for shift in range(4))
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    ) / 2
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate((flat, knots[-1:]))


def mirrored(right: Sequence[tuple[Real, Real]]) -> list[tuple[Real, Real]]:
    """Return the points of a symmetric outline, of which the right half is given, clockwise."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def stroke(points: Sequence[tuple[Real, Real]], width: Real, end_width: Real | None = None) -> Outline:
    """Draw a smooth line through the points, of the given half width, round at both ends."""
    line = smooth(points, closed=False)
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    across = np.stack((-along[:, 1], along[:, 0]), 1)
    widths = np.linspace(width, width if end_width is None else end_width, len(line))[:, None]
    turns = np.linspace(np.pi / 2, -np.pi / 2, 7)[1:-1, None]
    cap = line[-1] + widths[-1] * (np.sin(turns) * across[-1] + np.cos(turns) * along[-1])
    back = line[0] - widths[0] * (np.sin(turns) * across[0] + np.cos(turns) * along[0])
    return np.concatenate((line + widths * across, cap, (line - widths * across)[::-1], back))


def star(points: int = 5, depth: Real = 0.45) -> Outline:
    """Return a star within the unit circle, one point up."""
    turns = np.arange(2 * points) * np.pi / points - np.pi / 2
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, depth)
    return np.stack((radii * np.cos(turns), radii * np.sin(turns)), 1)


HEART: np.ndarray = np.stack(
    (
        np.sin(_TURNS) ** 3,
        -(13 * np.cos(_TURNS) - 5 * np.cos(2 * _TURNS) - 2 * np.cos(3 * _TURNS) - np.cos(4 * _TURNS)) / 15,
    ),
    1,
)


@dataclass(frozen=True)
class Part:
    """A polygon of one colour. A detail lies on the relief beneath it instead of bulging by itself."""

    outline: Outline
    colour: RGB
    number: int
    detail: bool = False
    marked: Frame | None = None  # where the subject's marking goes, clipped to this outline


@dataclass(frozen=True)
class Place(Frame):
    """A frame of a figure, to draw in."""

    figure: Figure

    def add(
        self, outline: Outline, colour: RGB, *, detail: bool = False, same: bool = False, marked: Frame | None = None
    ) -> None:
        """Lay a part on top; with `same` it belongs to the part before it (a glint to its eye)."""
        parts = self.figure.parts
        number = parts[-1].number + (not same) if parts else 0
        parts.append(Part(self.at(outline), colour, number, detail, marked))

    def inner(self, x: Real, y: Real, width: Real = 1.0, height: Real | None = None, angle: Real = 0.0) -> Place:
        inside = super().inner(x, y, width, height, angle)
        return Place(inside.matrix, inside.origin, self.figure)


class Figure(Place):
    """A subject's parts, from the farthest to the nearest, and where accessories go; a place in its own units."""

    def __init__(self) -> None:
        super().__init__(np.eye(2), np.zeros(2), self)
        self.parts: list[Part] = []
        self.top = self.inner(0, -0.6, 0.4)  # crown of the head; x ±1 is its width
        self.face = self.inner(0, -0.3, 0.3)  # between the eyes; x ±1 are the eyes
        self.neck = self.inner(0, 0.0, 0.3)  # x ±1 is its width
        self.sides = self.inner(0, -0.3, 0.4)  # centre of the head; x ±1 are its sides
        self.floats = False  # nothing it stands on, so no shadow


def shade(colour: RGB, factor: Real = 0.8) -> RGB:
    """Return the colour of what lies farther back; a dark colour gets lighter, so that it can be told from the rest."""
    if max(colour) < 0.45:
        return (colour[0] + 0.14, colour[1] + 0.14, colour[2] + 0.14)
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def is_dark(colour: RGB) -> bool:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] < 0.42


def ink_on(colour: RGB) -> RGB:
    """Return the colour that a mouth or a nose is drawn in on another."""
    return WHITE if is_dark(colour) and max(colour) < 0.55 else INK


def lerp(low: Real, high: Real, amount: Real) -> float:
    return low + (high - low) * amount


def swing(pose: Real, cycles: Real = 1.0) -> float:
    """Turn a pose in [0, 1] into a swing in [-1, 1]."""
    return float(np.sin(2 * np.pi * cycles * pose))


def add_eye(at: Place, x: Real, y: Real, size: Real, on: RGB) -> None:
    """Draw an eye with a glint; on a dark body it lies in a white ring."""
    if is_dark(on):
        at.add(ellipse(x, y, size * 1.45, size * 1.55), WHITE, detail=True)
    at.add(ellipse(x, y, size, size * 1.15), INK, detail=True)
    at.add(ellipse(x + 0.3 * size, y - 0.4 * size, size * 0.4), WHITE, detail=True, same=True)


def add_eyes(at: Place, gap: Real, y: Real, size: Real, on: RGB) -> None:
    """Draw two eyes, and the anchors of what is worn on them."""
    for x in (-gap, gap):
        add_eye(at, x, y, size, on)
    at.figure.face = at.inner(0, y, gap)


def add_smile(at: Place, x: Real, y: Real, size: Real, colour: RGB) -> None:
    line = ((x - size, y - 0.35 * size), (x, y + 0.35 * size), (x + size, y - 0.35 * size))
    at.add(stroke(line, 0.2 * size + 0.02), colour, detail=True)


def add_petals(at: Place, y: Real, size: Real, colour: RGB) -> None:
    """Draw five petals around the place's centre, each with its own centre `y` away from it."""
    for turn in range(0, 360, 72):
        at.inner(0, 0, 1, angle=turn).add(ellipse(0, y, size), colour, same=turn > 0)
