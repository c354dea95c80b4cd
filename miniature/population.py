"""Draw the base's training population: captioned random subjects in random styles, none of them held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import UInt8

from lorarar.errors import InputError
from lorarar.files import atomic_file
from lorarar.pool import process_pool
from miniature.buffers import SIZE
from miniature.catalogue import fresh_subject
from miniature.gallery import near_gallery
from miniature.progress import Report, counted, silent
from miniature.scene import draw, sample_view
from miniature.styles import FAMILIES, DrawnStyle, plain, random_style, reduce, render
from miniature.subjects import DETAILS, Subject, article, describe

FIRST = 10_000_000  # numbers of captions and drawings that no training reaches
PLAIN_SHARE = 0.3  # of the drawings have no style: the world's photographs
CHUNK = 500  # drawings a file: what a stopped run loses
TOLD = 0.85  # chance of each detail of a subject to be told by the caption

Image = UInt8[np.ndarray, "size size 3"]
Chunk = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """A drawing and all that is true of it; `details` are those that the caption tells, `family` is None if plain."""

    image: Image
    caption: str
    subject: Subject
    details: tuple[str, ...]
    family: str | None


def example(seed: int, index: int) -> Example:
    """Make drawing number `index` of the population of a seed."""
    rng = np.random.default_rng((seed, index))
    subject = fresh_subject(rng)
    buffers = draw(subject, sample_view(rng))
    details = tuple(detail for detail in DETAILS if rng.random() < TOLD)
    if rng.random() < PLAIN_SHARE:
        return Example(reduce(plain(buffers)), caption(subject, details), subject, details, None)
    style = sample_style(rng)
    words = caption(subject, details, FAMILIES[style.family].description)
    return Example(reduce(render(buffers, style, rng)), words, subject, details, style.family)


def sample_style(rng: np.random.Generator) -> DrawnStyle:
    """Draw a style of the base's training population: of any family, and never near a held-out one."""
    family = list(FAMILIES)[int(rng.integers(len(FAMILIES)))]
    while near_gallery(style := random_style(rng, family)):
        pass
    return style


def caption(subject: Subject, details: Sequence[str] = DETAILS, style: str | None = None) -> str:
    """Return a caption like the paper's prompts (§A1.3): "a red dog with white spots in watercolor painting style"."""
    words = describe(subject, details)
    return f"{article(words)} {words}" + (f" in {style} style" if style else "")


def population(
    seed: int, count: int, folder: Path, workers: int = 2, report: Report = silent
) -> tuple[UInt8[np.ndarray, "count size size 3"], list[str]]:
    """Draw what is missing of the population in `folder`, and read all of it."""
    starts = range(0, count, CHUNK)
    chunks = {folder / f"{start:06d}.npz": range(start, min(start + CHUNK, count)) for start in starts}
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    captions: list[str] = []
    for chunk in drawn_chunks(partial(_chunk, seed), chunks, workers, "drawing the population", report):
        images[len(captions) : len(captions) + len(chunk["images"])] = chunk["images"]
        captions += chunk["captions"].tolist()
    return images, captions


def _chunk(seed: int, numbers: range) -> Chunk:
    drawn = [example(seed, index) for index in numbers]
    return {
        "images": np.stack([item.image for item in drawn]),
        "captions": np.array([item.caption for item in drawn]),
    }


def drawn_chunks(
    draw: Callable[[range], Chunk], chunks: dict[Path, range], workers: int, text: str, report: Report
) -> Iterator[Chunk]:
    """Draw the numbers of every chunk whose file is not there yet; then yield all chunks, read from their files."""
    with process_pool(workers) as pool:
        jobs = [pool.submit(_save, draw, numbers, path) for path, numbers in chunks.items() if not path.is_file()]
        for job in counted(jobs, len(jobs), text, report):
            job.result()
    for path in chunks:
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                chunk = dict(file)
        except (BadZipFile, EOFError, KeyError, ValueError):
            raise InputError(f"{path} is damaged; remove it, and it is drawn again") from None
        yield chunk


def _save(draw: Callable[[range], Chunk], numbers: range, path: Path) -> None:
    chunk = draw(numbers)
    with atomic_file(path) as temporary:
        np.savez(temporary, **chunk)  # type: ignore[arg-type]  # as if one could be named allow_pickle
