"""The miniature's artistic styles: families of techniques, each with its own numbers and palette."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from miniature import styles_form, styles_line, styles_paint, styles_tile
from miniature.buffers import CANVAS, SIZE, SUPERSAMPLE, Buffers
from miniature.styles_palette import Palette, PaletteRange
from miniature.styles_tools import Renderer, Stage

_HALF_TURN = (0.0, float(np.pi))
_LAMP = (0.5, 2.6)


@dataclass(frozen=True)
class Family:
    """A technique: how it draws, what captions call it, and what its styles may be."""

    render: Renderer
    description: str  # as captions have it: "a cat in {description} style"
    group: str
    ranges: Mapping[str, tuple[float, float]]
    palette: PaletteRange = field(default_factory=PaletteRange)

    def distance(self, first: Mapping[str, float], second: Mapping[str, float]) -> float:
        """Return the mean difference of two styles' numbers, each in units of its range."""
        return float(
            np.mean([abs(first[key] - second[key]) / (high - low) for key, (low, high) in self.ranges.items()])
        )


@dataclass(frozen=True)
class DrawnStyle:
    """One style. The same style draws every subject with the same numbers; strokes fall anew in each picture."""

    family: str
    params: Mapping[str, float]
    palette: Palette


_UNIT = (0.0, 1.0)
_PALE = PaletteRange(paper=(0.86, 1.0), paper_saturation=0.2)
_DARK = PaletteRange(paper=(0.04, 0.16), paper_saturation=0.7, strength=(0.1, 0.6), dark=(0.1, 0.3))
_INK = PaletteRange(strength=(0.75, 1.0), dark=(0.05, 0.4), paper_saturation=0.3)
_VIVID = PaletteRange(strength=(0.15, 0.65), saturation=(1.0, 1.6), paper_saturation=0.5, paper=(0.6, 1.0))
_GROUT = PaletteRange(paper=(0.2, 0.95), paper_saturation=0.3, strength=(0.2, 0.75))

FAMILIES: dict[str, Family] = {
    "watercolor": Family(
        styles_paint.watercolor, "watercolor painting", "watercolor",
        {"wash": (0.55, 1.5), "bleed": _UNIT, "pool": (0.3, 1.2), "blooms": _UNIT, "grain": _UNIT, "margin": _UNIT,
         "fade": _UNIT, "outline": _UNIT}, _PALE),
    "oil": Family(
        styles_paint.oil, "oil painting", "oil",
        {"length": (15.0, 33.0), "width": (5.0, 9.0), "angle": _HALF_TURN, "swirl": (0.0, 2.0), "impasto": (0.4, 1.3),
         "variety": (0.2, 1.5)}, PaletteRange(saturation=(0.9, 1.5))),
    "pastel": Family(
        styles_paint.pastel, "pastel drawing", "drawing",
        {"smudge": _UNIT, "chalky": _UNIT, "angle": _HALF_TURN, "cover": (0.1, 0.8), "outline": (0.2, 0.9)},
        PaletteRange(paper=(0.35, 0.95), paper_saturation=0.35)),
    "crayon": Family(
        styles_paint.crayon, "crayon drawing", "drawing",
        {"childish": _UNIT, "spacing": (6.0, 11.0), "angle": _HALF_TURN, "pressure": (0.35, 0.85),
         "outline": (0.5, 1.0)},
        PaletteRange(paper=(0.88, 1.0), saturation=(1.0, 1.6), strength=(0.1, 0.6))),
    "pointillism": Family(
        styles_paint.pointillism, "pointillism", "painting",
        {"size": (6.0, 10.0), "vivid": _UNIT, "variety": (0.3, 1.1), "fill": (0.95, 1.35)}, _PALE),
    "chalk": Family(
        styles_paint.chalk, "chalk drawing", "drawing",
        {"angle": _HALF_TURN, "spacing": (6.0, 10.0), "fill": (0.25, 0.9)},
        PaletteRange(paper=(0.12, 0.3), paper_saturation=0.6, strength=(0.2, 0.9))),
    "ink_wash": Family(
        styles_paint.ink_wash, "ink wash", "painting",
        {"wet": _UNIT, "angle": _HALF_TURN, "dry": _UNIT, "brush": (2.0, 6.0)}, _INK),
    "line": Family(
        styles_line.line_drawing, "line drawing", "line",
        {"loose": _UNIT, "width": (2.0, 4.5), "double": _UNIT, "spacing": (6.0, 11.0), "angle": _HALF_TURN,
         "hatching": _UNIT, "tint": _UNIT}, _INK),
    "cartoon_line": Family(
        styles_line.cartoon_line, "cartoon line drawing", "cartoon",
        {"width": (3.0, 6.0), "shadow": _UNIT, "rays": (0.0, 14.0)}, _VIVID),
    "woodcut": Family(
        styles_line.woodcut, "woodcut", "print",
        {"light": _UNIT, "angle": _HALF_TURN, "spacing": (6.0, 11.0), "outline": (2.0, 4.0), "colours": _UNIT}, _INK),
    "blueprint": Family(
        styles_line.blueprint, "blueprint", "line",
        {"grid": (12.0, 32.0), "spacing": (6.0, 10.0), "angle": _HALF_TURN, "width": (2.0, 3.6), "tint": _UNIT},
        PaletteRange(paper=(0.35, 0.65), paper_saturation=1.0, paper_hue=(0.56, 0.68), strength=(0.7, 1.0))),
    "halftone": Family(
        styles_line.halftone, "comic halftone", "print",
        {"pitch": (7.0, 11.0), "angle": _HALF_TURN, "weight": (0.7, 1.2), "width": (2.5, 5)}, _VIVID),
    "neon": Family(
        styles_line.neon, "glowing", "light",
        {"width": (2.2, 4.5), "bloom": (0.6, 1.3), "fill": _UNIT, "wall": _UNIT}, _DARK),
    "mosaic": Family(
        styles_tile.mosaic, "mosaic", "pieces",
        {"size": (9.0, 15.0), "disorder": _UNIT, "variety": (0.4, 1.5), "tilt": _UNIT, "grout": (0.1, 0.22)}, _GROUT),
    "stained_glass": Family(
        styles_tile.stained_glass, "stained glass", "pieces",
        {"size": (20.0, 40.0), "vivid": _UNIT, "angle": _HALF_TURN, "lead": (2.0, 4.0)}, _VIVID),
    "pixel_art": Family(
        styles_tile.pixel_art, "pixel art", "pieces",
        {"size": (6.0, 10.0), "levels": (3.0, 7.0), "dither": _UNIT, "outline": _UNIT, "gaps": _UNIT}, _VIVID),
    "embroidery": Family(
        styles_tile.embroidery, "embroidery", "pieces",
        {"size": (7.0, 11.0), "thick": (0.35, 0.7), "bare": _UNIT, "outline": (0.3, 1.0)},
        PaletteRange(paper=(0.6, 1.0), paper_saturation=0.4)),
    "low_poly": Family(
        styles_tile.low_poly, "low poly", "3d",
        {"size": (15.0, 24.0), "angle": _LAMP, "contrast": (0.4, 1.4), "wire": _UNIT}, _VIVID),
    "paper_cutout": Family(
        styles_tile.paper_cutout, "paper cutout", "pieces",
        {"rough": _UNIT, "lift": _UNIT, "angle": _HALF_TURN, "waves": (12.0, 40.0), "rim": _UNIT}, _VIVID),
    "flat_cartoon": Family(
        styles_tile.flat_cartoon, "flat cartoon illustration", "cartoon",
        {"angle": _LAMP, "disc": (45.0, 85.0), "ring": _UNIT, "shadow": (0.5, 1.0)}, _VIVID),
    "sticker": Family(
        styles_tile.sticker, "sticker", "cartoon",
        {"border": (10.0, 18.0), "pitch": (14.0, 30.0), "angle": _HALF_TURN, "dots": _UNIT, "shine": _UNIT}, _VIVID),
    "rendering": Family(
        styles_form.rendering, "3D rendering", "3d",
        {"depth": (36.0, 75.0), "angle": _LAMP, "power": (8.0, 60.0), "gloss": (0.1, 1.0), "clay": _UNIT, "rim": _UNIT,
         "scene": (0.0, 0.7)}, PaletteRange(paper=(0.3, 1.0), paper_saturation=0.5)),
    "gold": Family(
        styles_form.gold, "melting golden rendering", "3d",
        {"drip": (5.0, 11.0), "melt": (4.0, 16.0), "depth": (36.0, 70.0), "bands": (3.0, 8.0), "pool": _UNIT},
        PaletteRange(paper=(0.1, 0.95), paper_saturation=0.4, strength=(0.75, 1.0), hue=(0.085, 0.125),
                     ink_saturation=(0.75, 0.95))),
    "wood": Family(
        styles_form.wood, "wooden sculpture", "sculpture",
        {"angle": _HALF_TURN, "rings": (7.0, 13.0), "grain": (0.5, 1.4), "chisel": _UNIT, "plank": (30.0, 60.0),
         "bench": _UNIT},
        PaletteRange(paper=(0.4, 0.95), strength=(0.7, 1.0), hue=(0.03, 0.1), ink_saturation=(0.5, 0.8))),
    "statue": Family(
        styles_form.statue, "black statue", "sculpture",
        {"depth": (45.0, 80.0), "angle": _LAMP, "power": (10.0, 50.0), "veins": _UNIT, "scene": (0.0, 0.5)},
        PaletteRange(paper=(0.5, 1.0), paper_saturation=0.4, dark=(0.03, 0.1), ink_saturation=(0.05, 0.3))),
    "smoke": Family(
        styles_form.smoke, "abstract rainbow smoke", "light",
        {"curl": (2.0, 7.0), "angle": _HALF_TURN, "hue": _UNIT, "span": (0.5, 1.3), "ribbon": (18.0, 36.0),
         "spread": _UNIT},
        PaletteRange(paper=(0.0, 1.0), paper_saturation=0.3, strength=(0.5, 1.0))),
}  # fmt: skip
"""Every family, by the name that `DrawnStyle.family` has."""


def render(buffers: Buffers, style: DrawnStyle, rng: np.random.Generator) -> Float[np.ndarray, "canvas canvas 3"]:
    """Return the scene in a style, sRGB in [0, 1]; `rng` places the strokes of this picture."""
    picture = FAMILIES[style.family].render(Stage(buffers, style.palette, rng), style.params)
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


_NO_PALETTE = Palette(((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0), 0.0)


def plain(buffers: Buffers) -> Float[np.ndarray, "canvas canvas 3"]:
    """Return the scene without a style: the world's photograph."""
    picture = styles_form.photo(Stage(buffers, _NO_PALETTE, np.random.default_rng(0)))
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def reduce(picture: Float[np.ndarray, "canvas canvas 3"]) -> UInt8[np.ndarray, "size size 3"]:
    """Return the finished image: each of its pixels is the mean of SUPERSAMPLE² of the canvas."""
    if picture.shape != (CANVAS, CANVAS, 3):
        raise ValueError(f"a picture has shape {(CANVAS, CANVAS, 3)}, not {picture.shape}")
    blocks = picture.reshape(SIZE, SUPERSAMPLE, SIZE, SUPERSAMPLE, 3)
    return np.rint(255 * blocks.mean((1, 3))).astype(np.uint8)


def random_style(rng: np.random.Generator, family: str) -> DrawnStyle:
    """Make any style of a family, the held-out ones' neighbourhood included."""
    kind = FAMILIES[family]
    params = {key: float(rng.uniform(*limits)) for key, limits in kind.ranges.items()}
    return DrawnStyle(family, params, kind.palette.sample(rng))
