"""Draw the example task, as in the paper's Fig. A4: both options have the style, one of them shows another cat.

Drawn rather than taken from the run, so that it is right whatever a judge says and no participant is primed with
either method's images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 384  # pixels
CELLS = 32  # of the mosaic, in each direction
FILES = ("subject.png", "style.png", "option1.png", "option2.png")
BETTER = 2
EXPLANATION = (
    "Here Option 2 is better. Both options are mosaics like the style image, but only Option 2 shows the dark cat with "
    "the white chest and the red collar. Option 1 shows some other cat."
)

_Color = tuple[int, int, int]
_DARK, _WHITE, _RED = (62, 66, 78), (238, 236, 230), (205, 52, 46)
_GINGER, _CREAM, _PALE = (222, 142, 62), (245, 222, 186), (232, 196, 120)


def draw_example(folder: Path) -> None:
    """Write the four images of FILES into `folder`."""
    cat = _cat(_DARK, _WHITE, _RED, wall=(206, 214, 205), floor=(168, 150, 128))
    other = _cat(_GINGER, _CREAM, None, wall=(110, 170, 186), floor=(196, 152, 92))
    same = _cat(_DARK, _WHITE, _RED, wall=(110, 170, 186), floor=(196, 152, 92))
    for name, image in zip(FILES, (cat, _mosaic(_harbour(), 1), _mosaic(other, 2), _mosaic(same, 3)), strict=True):
        image.save(folder / name)


def _cat(coat: _Color, chest: _Color, collar: _Color | None, wall: _Color, floor: _Color) -> Image.Image:
    """Draw a sitting cat on a 100 × 100 grid at twice the final size."""
    scale = 2 * SIZE / 100
    image = Image.new("RGB", (2 * SIZE, 2 * SIZE), wall)
    draw = ImageDraw.Draw(image)

    def box(left: int, top: int, right: int, bottom: int) -> tuple[float, float, float, float]:
        return (left * scale, top * scale, right * scale, bottom * scale)

    def polygon(color: _Color, *points: tuple[int, int]) -> None:
        draw.polygon([(x * scale, y * scale) for x, y in points], fill=color)

    draw.rectangle(box(0, 74, 100, 100), fill=floor)
    draw.arc(box(58, 52, 90, 90), -40, 130, fill=coat, width=round(7 * scale))
    draw.ellipse(box(28, 44, 72, 92), fill=coat)
    draw.ellipse(box(40, 52, 60, 84), fill=chest)
    for left in (34, 53):
        draw.ellipse(box(left, 82, left + 14, 93), fill=chest)
    polygon(coat, (29, 32), (30, 8), (48, 22))
    polygon(coat, (71, 32), (70, 8), (52, 22))
    draw.ellipse(box(27, 16, 73, 54), fill=coat)
    if collar:
        draw.rounded_rectangle(box(35, 50, 65, 56), radius=3 * scale, fill=collar)
        draw.ellipse(box(46, 53, 54, 61), fill=(240, 200, 70))
    for left in (36, 55):
        draw.ellipse(box(left, 29, left + 9, 39), fill=(150, 196, 92))
        draw.ellipse(box(left + 3, 29, left + 6, 39), fill=(20, 22, 26))
    polygon((214, 138, 140), (47, 41), (53, 41), (50, 45))
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _harbour() -> Image.Image:
    """Draw the style image's own motif: a boat under the sun, nothing of the subject."""
    image = Image.new("RGB", (100, 100), (112, 178, 200))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 62, 100, 100), fill=(44, 98, 142))
    draw.ellipse((66, 10, 88, 32), fill=(244, 196, 72))
    draw.polygon([(22, 66), (78, 66), (68, 80), (32, 80)], fill=(176, 64, 48))
    draw.polygon([(50, 18), (50, 62), (26, 62)], fill=(246, 238, 220))
    draw.polygon([(54, 26), (54, 62), (72, 62)], fill=_PALE)
    return image.resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _mosaic(image: Image.Image, seed: int) -> Image.Image:
    """Turn an image into square stones of one uneven colour each, with light joints between them."""
    generator = np.random.default_rng(seed)
    stones = np.asarray(image.resize((CELLS, CELLS), Image.Resampling.BOX), np.float64)
    stones = stones + generator.normal(0, 13, (CELLS, CELLS, 1)) + generator.normal(0, 5, stones.shape)
    small = Image.fromarray(np.clip(stones, 0, 255).astype(np.uint8))
    large = small.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(large)
    for line in range(CELLS + 1):
        place = line * SIZE // CELLS
        draw.line((place, 0, place, SIZE), fill=(226, 220, 206), width=2)
        draw.line((0, place, SIZE, place), fill=(226, 220, 206), width=2)
    return large
