"""Serve images as a participant may get them: decoded, small enough for a phone, and without the file's metadata."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from lorarar.images import open_image

DISPLAY_SIZE = 1024  # pixels of the longer side; SDXL's images are shown as they are


def check_image(path: Path) -> None:
    """Raise InputError unless `path` is a whole image that `clean_png` can serve."""
    open_image(path)


def clean_png(path: Path) -> bytes:
    """Return an image as PNG, its longer side reduced to DISPLAY_SIZE, without metadata, which may name a method.

    Raises InputError as `open_image` does.
    """
    image = open_image(path)
    image.thumbnail((DISPLAY_SIZE, DISPLAY_SIZE), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would carry a colour profile, with its description, over to the PNG
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
