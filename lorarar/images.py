"""Find image files and open them as strangers' files are opened: whole, upright, and no larger than is sane."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.errors import InputError, describe_os_error

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_PIXELS = 64_000_000  # a phone camera's largest photos; more would only fill the memory

# What Pillow raises for damaged files; all but the first three come of reading an Exif block.
_DAMAGED = (OSError, ValueError, SyntaxError, struct.error, EOFError, KeyError, TypeError)


def is_image(path: Path) -> bool:
    """Tell by its name whether a file is an image of a kind that is read, and is not hidden.

    Hidden are the files that a write left half-done when it was killed, and macOS's copies of attributes (`._a.png`).
    """
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_images(paths: Sequence[Path]) -> tuple[Path, ...]:
    """List the given files, and the images of the given folders in the order of their names.

    Raises InputError for a path that is not there, and for a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(filter(is_image, path.iterdir()))
        if not inside:
            raise InputError(f"{path}: no images in this folder; it may hold {', '.join(IMAGE_SUFFIXES)}")
        found += inside
    for path in found:
        if not path.is_file():
            raise InputError(f"{path}: no such image or folder; check the path")
    return tuple(found)


def images_below(folder: Path) -> list[Path]:
    """List the images of a folder and of all folders in it, in the order of their paths."""
    return sorted(filter(is_image, folder.rglob("*")))


def open_image(path: Path) -> Image:
    """Open an image file whole, turned upright by its Exif orientation, without its metadata.

    The mode is RGBA where the image is transparent anywhere, else RGB. Raises InputError for a file that is missing,
    damaged, of another format than FORMATS, or over MAX_PIXELS.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of large images; the size has its own check here.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as file:
                if file.width * file.height > MAX_PIXELS:
                    size = f"{file.width}×{file.height}"
                    raise InputError(f"{path}: {size} is too large; give at most {MAX_PIXELS // 10**6} megapixels")
                image = ImageOps.exif_transpose(file)
                if image.mode.startswith("I"):
                    # 16 bits of grey, which Pillow's conversion clips at 255: all but black would be white.
                    image = image.point(lambda value: value / 256).convert("L")
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: this is a folder; give an image's file") from None
    except PermissionError as error:
        raise InputError(describe_os_error(error)) from None
    except (*_DAMAGED, Image.DecompressionBombError):
        raise InputError(f"{path}: not a whole PNG, JPEG, WebP or BMP image; restore it or choose another") from None
    image.info.clear()  # generators write prompts and method names there
    return image


def on_white(image: Image) -> Image:
    """Lay an image of `open_image` on white: RGB."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
