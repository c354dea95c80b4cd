"""Draw a subject, seen in a view, into buffers, and those in a style into a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw
from scipy.ndimage import distance_transform_edt

from miniature.accessories import ACCESSORIES, room
from miniature.backdrops import Backdrop, backdrop_layers, sample_backdrop
from miniature.bodies_creatures import bear, bird, cat, dog, duck, fish, monster, rabbit, robot, turtle
from miniature.bodies_objects import backpack, boot, can, car, clock, mug, teapot, vase
from miniature.buffers import CANVAS, GROUND, SIZE, SUPERSAMPLE, Buffers
from miniature.figure import Figure, Frame, Outline, Part, ellipse, frame
from miniature.markings import marking_outlines
from miniature.styles import DrawnStyle, plain, reduce, render
from miniature.subjects import RGB, Subject

MARGIN = 0.02  # of the picture, kept free around the subject
FULL_BULGE = 0.12 * SIZE  # a part at least twice this thick, in pixels, bulges fully
FARTHEST, NEAREST = 0.2, 0.6  # relief of the first and the last part of a subject, before they bulge
BULGE, DETAIL = 0.36, 0.04  # the most that a part bulges; what a detail adds to the part beneath it

_ANIMALS = (dog, cat, rabbit, bird, fish, turtle)
_OBJECTS = (teapot, mug, boot, backpack, car, clock, vase, can)
_TOYS = (robot, bear, duck, monster)
BODIES: Mapping[str, Callable[[Figure, Subject, float], None]] = {
    body.__name__: body for body in (*_ANIMALS, *_OBJECTS, *_TOYS)
}
"""What draws a subject of each kind into a figure, without its accessory, at a pose in [0, 1]."""


@dataclass(frozen=True)
class View:
    """How a subject is seen: everything that differs between two drawings of the same subject."""

    x: float  # offset of the centre, -1 to 1 from edge to edge of the room that the size leaves
    y: float
    size: float  # share of the picture that the subject spans
    flip: bool  # the whole picture mirrored
    tilt: float  # degrees, clockwise
    pose: float  # 0 to 1; each kind reads it in its own way
    backdrop: Backdrop


def sample_view(rng: np.random.Generator) -> View:
    x, y = rng.uniform(-0.7, 0.7, 2)
    size, tilt, pose = rng.uniform((0.84, -9.0, 0.0), (0.98, 9.0, 1.0))
    flip = bool(rng.random() < 0.5)
    return View(float(x), float(y), float(size), flip, float(tilt), float(pose), sample_backdrop(rng))


def draw(subject: Subject, view: View) -> Buffers:
    """Draw a subject in a view; the same two give the same bytes."""
    figure = Figure()
    BODIES[subject.kind](figure, subject, view.pose)
    # The accessory does not take part: what is worn must not move or shrink the wearer.
    place = _placed(figure, view)
    bare = len(figure.parts)
    if subject.accessory != "none":
        ACCESSORIES[subject.accessory](figure, subject.accessory_colour)
    canvas = _Canvas(view.backdrop)
    if not figure.floats:
        canvas.shadow(figure, place, bare)
    first = GROUND + 1
    # Markings take the number after the body's last, accessories those after it: neither renumbers the body.
    marking = first + figure.parts[bare - 1].number + 1
    for index, part in enumerate(figure.parts):
        number = first + part.number + (index >= bare)
        depth = FARTHEST + (NEAREST - FARTHEST) * index / max(1, len(figure.parts) - 1)
        canvas.part(part, place, number, depth)
        if part.marked is not None:
            canvas.marking(subject, part, place, marking)
    return canvas.buffers(view.flip)


def picture(subject: Subject, style: DrawnStyle | None, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
    """Draw a subject in a random view, finished; without a style, plain."""
    buffers = draw(subject, sample_view(rng))
    return reduce(plain(buffers) if style is None else render(buffers, style, rng))


def _placed(figure: Figure, view: View) -> Frame:
    """Return where the figure's units lie on the canvas, in canvas pixels."""
    turned = frame(0, 0, 1, angle=view.tilt)
    points = turned.at(np.concatenate([part.outline for part in figure.parts] + [room(figure)]))
    low, high = points.min(0), points.max(0)
    spans = high - low
    # A narrow subject may be a little taller than a wide one is wide, so that all fill the picture alike.
    mean = 0.6 * spans.max() + 0.4 * np.sqrt(spans.prod())
    scale = min(view.size / mean, (1 - 2 * MARGIN) / spans.max()) * CANVAS
    free = (1 - 2 * MARGIN) * CANVAS - spans * scale
    centre = CANVAS / 2 + np.array((view.x, view.y)) * free / 2
    return Frame(turned.matrix * scale, centre - (low + high) / 2 * scale)


class _Canvas:
    """Paints in layers: an image of paint numbers at full size, and the relief at the final size."""

    def __init__(self, backdrop: Backdrop) -> None:
        self.image = Image.new("L", (CANVAS, CANVAS))
        self.pen = ImageDraw.Draw(self.image)
        self.height = np.zeros((SIZE, SIZE), np.float32)
        self.colours: list[RGB] = []
        self.numbers: list[int] = []
        whole = frame(CANVAS / 2, CANVAS / 2, CANVAS / 2)
        for outline, colour, number in backdrop_layers(backdrop):
            self._polygon(self.pen, whole.at(outline), self._paint(colour, number))
        self.ground = backdrop.colours[1] if GROUND in self.numbers else backdrop.colours[0]

    def _paint(self, colour: RGB, number: int) -> int:
        self.colours.append(colour)
        self.numbers.append(number)
        return len(self.colours) - 1

    @staticmethod
    def _polygon(pen: ImageDraw.ImageDraw, points: Outline, value: int) -> None:
        pen.polygon(points.ravel().tolist(), fill=value)

    def shadow(self, figure: Figure, place: Frame, bare: int) -> None:
        """Draw a darker patch of ground where the subject stands."""
        points = place.at(np.concatenate([part.outline for part in figure.parts[:bare]]))
        left, right, bottom = points[:, 0].min(), points[:, 0].max(), points[:, 1].max()
        red, green, blue = (0.82 * channel for channel in self.ground)
        half = 0.46 * (right - left)
        patch = ellipse((left + right) / 2, bottom - 0.02 * CANVAS, half, 0.05 * CANVAS)
        self._polygon(self.pen, patch, self._paint((red, green, blue), GROUND))

    def part(self, part: Part, place: Frame, number: int, depth: float) -> None:
        """Paint a part, and raise it: a detail a little, another by a dome on what its depth is."""
        outline = place.at(part.outline)
        self._polygon(self.pen, outline, self._paint(part.colour, number))
        outline = outline / SUPERSAMPLE
        low = np.clip(np.floor(outline.min(0)).astype(int) - 1, 0, SIZE - 1)
        high = np.clip(np.ceil(outline.max(0)).astype(int) + 2, low + 1, SIZE)
        window = self.height[low[1] : high[1], low[0] : high[0]]
        scratch = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
        self._polygon(ImageDraw.Draw(scratch), outline - low, 1)
        mask = np.asarray(scratch) > 0
        if part.detail:
            window[mask] += DETAIL
            return
        inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        thickest = max(float(inside.max()), 1.0)
        dome = np.sqrt(np.clip(1 - (1 - inside / thickest) ** 2, 0, 1)) * BULGE * min(1.0, thickest / FULL_BULGE)
        window[mask] = (depth + dome)[mask]

    def marking(self, subject: Subject, part: Part, place: Frame, number: int) -> None:
        """Paint the subject's marking on the part just drawn, inside its outline."""
        assert part.marked is not None
        outlines = marking_outlines(subject.marking, part.marked)
        if not outlines:
            return
        inside, painted = (Image.new("L", (CANVAS, CANVAS)) for _ in range(2))
        self._polygon(ImageDraw.Draw(inside), place.at(part.outline), 255)
        for outline in outlines:
            self._polygon(ImageDraw.Draw(painted), place.at(outline), 255)
        self.image.paste(self._paint(subject.marking_colour, number), mask=ImageChops.darker(inside, painted))

    def buffers(self, flip: bool) -> Buffers:
        paint = np.asarray(self.image)
        large = Image.fromarray(self.height).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
        height = np.clip(np.asarray(large), 0, 1)
        if flip:
            paint, height = paint[:, ::-1], np.ascontiguousarray(height[:, ::-1])
        albedo = np.array(self.colours, np.float32)[paint]
        return Buffers(np.array(self.numbers)[paint], albedo, height)
