"""Images as a participant may get them: decoded, small enough for a phone, and without the file's metadata."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps

from lorarar.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000  # a phone camera's largest photos; more would only fill the memory
DISPLAY_SIZE = 1024  # pixels of the longer side; SDXL's images are shown as they are


def check_image(path: Path) -> None:
    """Raise InputError unless `path` is a whole image that `clean_png` can serve."""
    with _open(path) as image:
        image.load()


def clean_png(path: Path) -> bytes:
    """The image as PNG without metadata, since generators write prompts and method names there. Orientation is
    applied and the longer side reduced to DISPLAY_SIZE. Raises InputError.
    """
    with _open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
        image.thumbnail((DISPLAY_SIZE, DISPLAY_SIZE), Image.Resampling.LANCZOS)
        image.info.clear()  # Pillow would carry a colour profile, with its description, over to the PNG
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of large images; the size has its own check here.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{path}: {image.width}×{image.height} is too large; give at most 64 megapixels")
                yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"{path}: not a whole PNG, JPEG or WebP image; restore it or choose another") from None
