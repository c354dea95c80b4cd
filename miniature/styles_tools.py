"""Make what every style draws with: noise, contours, warps, light, layouts of strokes and tiles, and the stage.

Noise and layouts are periodic, made once for a few quantised sizes and angles, and rolled to a random place for
each picture: 30,000 pictures are made on one core. All arrays are float32 and CANVAS pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from scipy.spatial import cKDTree

from miniature.buffers import CANVAS, Buffers
from miniature.styles_palette import Palette, tone

Plane = Float[np.ndarray, "canvas canvas"]
Picture = Float[np.ndarray, "canvas canvas 3"]

Number = float | int  # beartype takes no int for a float

ROWS, COLS = (axis.astype(np.float32) for axis in np.mgrid[:CANVAS, :CANVAS])
_ANGLES = 12  # directions that textures and strokes come in, over half a turn
_VARIANTS = 2  # different noises of one size


def blur(image: np.ndarray, sigma: Number) -> np.ndarray:
    """Return the Gaussian blur of a plane or of each channel of a picture."""
    sigmas = (sigma, sigma) + (0.0,) * (image.ndim - 2)
    return ndimage.gaussian_filter(image.astype(np.float32), sigmas, truncate=2.5, mode="nearest")


def mix(first: np.ndarray, second: np.ndarray, amount: np.ndarray | Number) -> np.ndarray:
    """Return `first` where amount is 0, `second` where it is 1; a plane of amounts spreads over the channels."""
    if isinstance(amount, np.ndarray) and amount.ndim == 2:
        amount = amount[..., None]
    return first + (second - first) * amount


def step(values: np.ndarray, edge: np.ndarray | Number, width: Number) -> np.ndarray:
    """Return 0 below the edge, 1 above it, with a linear ramp of `width` between."""
    return np.clip((values - edge) / width + 0.5, 0.0, 1.0)


@lru_cache(maxsize=256)
def _noise(along: int, across: int, angle: int, variant: int) -> np.ndarray:
    turn = angle * np.pi / _ANGLES
    rows, cols = np.fft.fftfreq(CANVAS)[:, None], np.fft.rfftfreq(CANVAS)[None, :]
    u, v = np.cos(turn) * cols + np.sin(turn) * rows, np.cos(turn) * rows - np.sin(turn) * cols
    lengths = 2 ** (along / 2), 2 ** (across / 2)
    spectrum = np.exp(-2 * ((u * lengths[0]) ** 2 + (v * lengths[1]) ** 2))
    white = np.random.default_rng((along, across, angle, variant)).standard_normal((CANVAS, CANVAS))
    filtered = np.fft.irfft2(np.fft.rfft2(white) * spectrum, (CANVAS, CANVAS))
    return ((filtered - filtered.mean()) / filtered.std()).astype(np.float32)


def borders(part: Int[np.ndarray, "canvas canvas"]) -> Plane:
    """Return 1 on pixels whose right or lower neighbour is of another part."""
    edge = np.zeros(part.shape, np.float32)
    edge[:, :-1] += part[:, :-1] != part[:, 1:]
    edge[:-1] += part[:-1] != part[1:]
    return np.minimum(edge, 1.0)


def lines(edge: Plane, width: Plane | Number) -> Plane:
    """Make lines of about `width` pixels on the borders, 1 on the line, soft at its sides.

    A plane of widths varies them.
    """
    sigma = float(np.mean(width)) / 2
    ridge = blur(edge, sigma) * (sigma * 2.5)  # 1 in the middle of a straight border, 0.6 one sigma away
    threshold = 0.6 if isinstance(width, float | int) else 0.6 * (sigma * 2 / np.maximum(width, 0.3)) ** 0.7
    return np.clip((ridge - threshold) / 0.3 + 0.5, 0.0, 1.0)


def hatch(period: Number, angle: Plane | Number, bend: Plane | Number = 0.0) -> Plane:
    """Make parallel lines as a wave in [0, 1], `period` pixels apart; `bend` shifts them, in pixels."""
    across = ROWS * np.cos(angle, dtype=np.float32) - COLS * np.sin(angle, dtype=np.float32) + bend
    return 0.5 + 0.5 * np.cos(across * np.float32(2 * np.pi / period))


def normals(height: Plane, depth: Number, smooth: Number = 2.0) -> Float[np.ndarray, "3 canvas canvas"]:
    """Return the unit normals (right, down, to the eye) of a relief `depth` pixels deep."""
    soft = blur(height, smooth) * depth
    down, right = np.gradient(soft)
    length = 1 / np.sqrt(1 + down**2 + right**2)
    return np.stack((-right * length, -down * length, length))


def light(normal: Float[np.ndarray, "3 canvas canvas"], angle: Number, rise: Number = 0.9) -> Plane:
    """Return the cosine between the normals and a lamp `angle` rad up from the right and `rise` rad above the paper."""
    lamp = np.cos(angle) * np.cos(rise), -np.sin(angle) * np.cos(rise), np.sin(rise)
    return (normal[0] * lamp[0] + normal[1] * lamp[1] + normal[2] * lamp[2]).astype(np.float32)


def gloss(normal: Float[np.ndarray, "3 canvas canvas"], angle: Number, power: Number) -> Plane:
    """Return Blinn's highlight of the same lamp, in [0, 1]."""
    return np.clip(light(normal, angle, (0.9 + np.pi / 2) / 2), 0.0, 1.0) ** power


def cast(mask: Bool[np.ndarray, "canvas canvas"], down: Number, right: Number, soft: Number) -> Plane:
    """Return the soft shadow that a mask throws."""
    shifted = ndimage.shift(mask.astype(np.float32), (down, right), order=0, mode="constant")
    return blur(shifted, soft)


@dataclass(frozen=True)
class Cells:
    """A layout of strokes or tiles that covers the canvas."""

    label: Int[np.ndarray, "canvas canvas"]  # number of the cell that a pixel is of
    rows: Int[np.ndarray, " cells"]  # pixel at each cell's centre
    cols: Int[np.ndarray, " cells"]
    along: Plane  # where in its cell a pixel is, -1 to 1 along the stroke and across it
    across: Plane
    gap: Plane  # 0 at the cell's border, 1 in its middle

    def rolled(self, rng: np.random.Generator) -> Cells:
        shift = rng.integers(0, CANVAS, 2).tolist()
        planes = (self.label, self.along, self.across, self.gap)
        label, *places = (np.roll(plane, shift, (0, 1)) for plane in planes)
        along, across, gap = (place.astype(np.float32) for place in places)
        return Cells(label, (self.rows + shift[0]) % CANVAS, (self.cols + shift[1]) % CANVAS, along, across, gap)

    def sampled(self, image: np.ndarray) -> np.ndarray:
        """Fill every cell with what is at its centre."""
        return image[self.rows, self.cols][self.label]

    def averaged(self, plane: Plane) -> Plane:
        """Fill every cell with its mean."""
        flat = self.label.ravel()
        size = np.maximum(np.bincount(flat, minlength=len(self.rows)), 1)
        return (np.bincount(flat, plane.ravel(), len(self.rows)) / size).astype(np.float32)[self.label]

    def jitter(self, rng: np.random.Generator) -> Plane:
        """Make a normal random number for each cell."""
        return rng.standard_normal(len(self.rows)).astype(np.float32)[self.label]


def _wrapped(difference: np.ndarray) -> np.ndarray:
    return (difference + CANVAS / 2) % CANVAS - CANVAS / 2


@lru_cache(maxsize=384)
def _strokes(length: int, width: int, angle: int, swirl: int) -> Cells:
    rng = np.random.default_rng((length, width, angle, swirl))
    count = int(5 * CANVAS**2 / (length * width))
    rows, cols = rng.integers(0, CANVAS, (2, count))
    turns = (angle * np.pi / _ANGLES + swirl * 0.35 * _noise(10, 10, 0, 0)[rows, cols]).astype(np.float32)
    reach = length // 2 + 1
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    cos, sin = np.cos(turns)[:, None, None], np.sin(turns)[:, None, None]
    square = np.square(np.square((right * cos + down * sin) * (2 / length)))
    inside = square + np.square(np.square((down * cos - right * sin) * (2 / width))) < 1
    stroke, row, col = np.nonzero(inside)
    label = np.full((CANVAS, CANVAS), -1, np.int32)
    # Where strokes overlap, the last one assigned stays: it lies on top.
    label[(rows[stroke] + row - reach) % CANVAS, (cols[stroke] + col - reach) % CANVAS] = stroke
    while (label < 0).any():  # the few pixels that no stroke hit go to the stroke at their left
        label = np.where(label < 0, np.roll(label, 1, 1), label)
    offset_down, offset_right = _wrapped(ROWS - rows[label]), _wrapped(COLS - cols[label])
    cos, sin = np.cos(turns)[label], np.sin(turns)[label]
    along = np.clip((offset_right * cos + offset_down * sin) * 2 / length, -1, 1)
    across = np.clip((offset_down * cos - offset_right * sin) * 2 / width, -1, 1)
    # Some 300 layouts are kept, so they are half floats until one is used.
    along, across = along.astype(np.float16), across.astype(np.float16)
    return Cells(label, rows, cols, along, across, 1 - np.maximum(np.abs(along), np.abs(across)))


def strokes(rng: np.random.Generator, length: Number, width: Number, angle: Number, swirl: Number = 0.0) -> Cells:
    """Make brush strokes, laid in a random order; `swirl` (0 to 2) bends their direction over the canvas."""
    sizes = max(8, 8 * round(length / 8)), max(3, 2 * round((width - 1) / 2) + 1)
    turned = 2 * round(angle / np.pi * _ANGLES / 2) % _ANGLES
    return _strokes(*sizes, turned, min(2, round(swirl))).rolled(rng)


@lru_cache(maxsize=64)
def _tiles(size: int, disorder: int, variant: int) -> Cells:
    rng = np.random.default_rng((size, disorder, variant))
    count = CANVAS // size
    pitch = CANVAS / count
    grid = np.argwhere(np.ones((count, count))) * pitch + pitch / 2
    centres = (grid + rng.uniform(-1, 1, grid.shape) * pitch * 0.5 * disorder / 4) % CANVAS
    pixels = np.stack((ROWS, COLS), -1).reshape(-1, 2)
    distances, nearest = cKDTree(centres, boxsize=CANVAS).query(pixels, k=2)
    label = nearest[:, 0].reshape(CANVAS, CANVAS).astype(np.int32)
    offset = _wrapped(pixels - centres[nearest[:, 0]]).reshape(CANVAS, CANVAS, 2).astype(np.float32) / (pitch / 2)
    gap = ((distances[:, 1] - distances[:, 0]) / pitch).reshape(CANVAS, CANVAS).astype(np.float32)
    rows, cols = centres.astype(np.int64).T % CANVAS
    return Cells(label, rows, cols, offset[..., 1], offset[..., 0], np.minimum(gap, 1.0))


def tiles(rng: np.random.Generator, size: Number, disorder: Number) -> Cells:
    """Make Voronoi tiles about `size` pixels wide: squares for disorder 0, shards for 1."""
    return _tiles(round(size), round(4 * disorder), int(rng.integers(_VARIANTS))).rolled(rng)


@lru_cache(maxsize=16)
def _grid(size: int) -> Cells:
    count = -(-CANVAS // size)
    row, col = ROWS.astype(np.int32) // size, COLS.astype(np.int32) // size
    along, across = ((2 * (axis % size) + 1) / size - 1 for axis in (COLS, ROWS))
    centres = np.minimum(np.arange(count) * size + size // 2, CANVAS - 1)
    gap = 1 - np.maximum(np.abs(along), np.abs(across))
    return Cells(row * count + col, np.repeat(centres, count), np.tile(centres, count), along, across, gap)


def grid(size: Number) -> Cells:
    """Make square cells, in rows from the upper left corner."""
    return _grid(round(size))


@dataclass(frozen=True)
class Stage:
    """A scene on the way to a picture."""

    buffers: Buffers
    palette: Palette
    rng: np.random.Generator

    def wobbled(self, amount: Number, scale: Number = 16.0) -> Stage:
        """Return the same stage with the scene's edges wandering, as a hand draws."""
        return self.warped(amount * self.noise(scale), amount * self.noise(scale))

    def warped(self, down: Plane, right: Plane) -> Stage:
        """Return the same stage with each pixel taken from `down`, `right` pixels away, the nearest in the frame."""
        rows = np.clip(ROWS + down, 0, CANVAS - 1).astype(np.intp)
        cols = np.clip(COLS + right, 0, CANVAS - 1).astype(np.intp)
        part, albedo, height = self.buffers.part, self.buffers.albedo, self.buffers.height
        return Stage(Buffers(part[rows, cols], albedo[rows, cols], height[rows, cols]), self.palette, self.rng)

    @cached_property
    def colour(self) -> Picture:
        """Return the albedo in the style's palette."""
        return self.palette.apply(self.buffers.albedo.astype(np.float32))

    @cached_property
    def tone(self) -> Plane:
        """Return the lightness of the albedo in [0, 1]."""
        return tone(self.buffers.albedo.astype(np.float32))

    @cached_property
    def subject(self) -> Plane:
        return self.buffers.subject.astype(np.float32)

    @cached_property
    def edge(self) -> Plane:
        return borders(self.buffers.part)

    @cached_property
    def paper(self) -> Float[np.ndarray, " 3"]:
        return np.array(self.palette.paper, np.float32)

    def ink(self, index: int = 0) -> Float[np.ndarray, " 3"]:
        return np.array(self.palette.inks[index], np.float32)

    def lit(self, depth: Number, angle: Number, rise: Number = 0.9) -> Plane:
        """Return Lambert light on the relief."""
        return light(normals(self.buffers.height, depth), angle, rise)

    def shaded(self, ambient: Number, direct: Number, depth: Number) -> Picture:
        """Return the palette's colours under a lamp at the upper left."""
        bright = ambient + direct * self.lit(depth, 2.2)
        return self.colour * bright[..., None]

    def noise(self, along: Number, across: Number | None = None, angle: Number = 0.0) -> Plane:
        """Make smooth noise of mean 0, deviation 1, spots of about `along` × `across` pixels, turned by `angle` rad."""
        sizes = [max(0, round(2 * np.log2(max(size, 1.0)))) for size in (along, across or along)]
        turned = round(angle / np.pi * _ANGLES) % _ANGLES if sizes[0] != sizes[1] else 0
        plane = _noise(sizes[0], sizes[1], turned, int(self.rng.integers(_VARIANTS)))
        return np.roll(plane, self.rng.integers(0, CANVAS, 2).tolist(), (0, 1))


Params = Mapping[str, float]
"""A style's own numbers."""
Renderer = Callable[[Stage, Params], np.ndarray]
