"""Images as a program's tensors, and back (FeatureTypes.proto: ImageFeatureType)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.values import TensorType

if TYPE_CHECKING:
    from PIL import Image

COLOURS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
"""ColorSpace → its name."""
MODES = {"GRAYSCALE": "L", "RGB": "RGB", "BGR": "RGB", "GRAYSCALE_FLOAT16": "F"}
"""Its name → Pillow's mode of such an image."""


def from_image(image: Image.Image, colour: str, name: str) -> np.ndarray:
    """Return an image as (1, C, H, W), its values as they are; to scale and shift them is the program's."""
    if image.mode != MODES[colour]:
        raise InputError(f"input {name!r} is an image of mode {image.mode}; convert it to {MODES[colour]}")
    pixels = np.asarray(image, np.float32)
    if pixels.ndim == 2:
        return pixels[None, None]
    planes = pixels.transpose(2, 0, 1)[None]
    return planes[:, ::-1] if colour == "BGR" else planes


def to_image(value: np.ndarray, colour: str) -> Image.Image:
    """Return a tensor as coremltools gives an image: RGBA of colours, L or F of one channel.

    Values are rounded and limited to 0 … 255; how Core ML rounds is not published.
    """
    from PIL import Image

    planes = value.astype(np.float32).reshape(value.shape[-3:] if value.ndim > 2 else (1, *value.shape))
    if colour == "GRAYSCALE_FLOAT16":
        return Image.fromarray(planes[0])
    levels = np.rint(np.nan_to_num(planes).clip(0, 255)).astype(np.uint8)
    if colour == "GRAYSCALE":
        return Image.fromarray(levels[0])
    opaque = np.full_like(levels[:1], 255)
    return Image.fromarray(np.concatenate([levels[::-1] if colour == "BGR" else levels, opaque]).transpose(1, 2, 0))


def image_type(message: Any, name: str) -> str:
    """Return the colours that an ImageFeatureType message names."""
    if message.colorSpace not in COLOURS:
        raise InputError(f"{name!r} is an image of an unknown colour space {message.colorSpace}; export it again")
    return COLOURS[message.colorSpace]


def sizes_of(message: Any) -> tuple[tuple[tuple[int, int | None], tuple[int, int | None]], ...]:
    """Return the heights and widths that an ImageFeatureType message allows: smallest and largest, None without one."""
    flexible = message.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        return tuple(((each.height, each.height), (each.width, each.width)) for each in message.enumeratedSizes.sizes)
    if flexible == "imageSizeRange":
        return ((span_of(message.imageSizeRange.heightRange), span_of(message.imageSizeRange.widthRange)),)
    return (((message.height, message.height), (message.width, message.width)),)


def span_of(message: Any) -> tuple[int, int | None]:
    """Return the bounds of a SizeRange message; an upper bound of -1 is none."""
    return message.lowerBound, None if message.upperBound < 0 else message.upperBound


def span_text(low: int, high: int | None) -> str:
    """Return bounds in words: 3, 3…8 or, without an upper one, 3…"""
    return str(low) if low == high else f"{low}…{high or ''}"


def fits(kind: TensorType, colour: str) -> bool:
    """Tell whether a tensor can hold an image of these colours."""
    channels = 3 if colour in ("RGB", "BGR") else 1
    return kind.any_rank or (len(kind.shape) == 4 and kind.shape[1] in (channels, None))
