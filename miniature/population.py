"""Draw the base's training population: captioned random subjects in random styles, none of them held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from lorarar.files import atomic_file
from lorarar.pool import process_pool
from miniature.buffers import SIZE
from miniature.catalogue import near_catalogue
from miniature.gallery import near_gallery
from miniature.progress import Report, counted, silent
from miniature.scene import draw, sample_view
from miniature.styles import FAMILIES, Style, plain, random_style, reduce, render
from miniature.subjects import DETAILS, Subject, article, describe, sample_subject

PLAIN_SHARE = 0.3  # of the drawings have no style: the world's photographs
CHUNK = 500  # drawings a file: what a stopped run loses
TOLD = 0.85  # chance of each detail of a subject to be told by the caption


@dataclass(frozen=True)
class Example:
    """A drawing and its words."""

    image: UInt8[np.ndarray, "size size 3"]
    caption: str


def example(seed: int, index: int) -> Example:
    """Make drawing number `index` of the population of a seed."""
    rng = np.random.default_rng((seed, index))
    subject = _new_subject(rng)
    buffers = draw(subject, sample_view(rng))
    details = [detail for detail in DETAILS if rng.random() < TOLD]
    if rng.random() < PLAIN_SHARE:
        return Example(reduce(plain(buffers)), caption(subject, details))
    style = sample_style(rng)
    return Example(reduce(render(buffers, style, rng)), caption(subject, details, FAMILIES[style.family].description))


def sample_style(rng: np.random.Generator) -> Style:
    """Draw a style of the base's training population: of any family, and never near a held-out one."""
    family = list(FAMILIES)[int(rng.integers(len(FAMILIES)))]
    while True:
        style = random_style(rng, family)
        if not near_gallery(style):
            return style


def caption(subject: Subject, details: Sequence[str] = DETAILS, style: str | None = None) -> str:
    """Return a caption like the paper's prompts (§A1.3): "a red dog with white spots in watercolor painting style"."""
    words = describe(subject, details)
    return f"{article(words)} {words}" + (f" in {style} style" if style else "")


def population(
    seed: int, count: int, folder: Path, workers: int = 2, report: Report = silent
) -> tuple[UInt8[np.ndarray, "count size size 3"], list[str]]:
    """Draw what is missing of the population in `folder`, and read all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = list(range(0, count, CHUNK))
    missing = [start for start in starts if not _path(folder, start).is_file()]
    with process_pool(workers) as pool:
        jobs = [pool.submit(_chunk, seed, start, min(CHUNK, count - start), _path(folder, start)) for start in missing]
        for job in counted(jobs, len(jobs), "drawing the population", report):
            job.result()
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    captions: list[str] = []
    for start in starts:
        with np.load(_path(folder, start)) as file:
            images[start : start + len(file["images"])] = file["images"]
            captions += file["captions"].tolist()
    return images, captions


def _path(folder: Path, start: int) -> Path:
    return folder / f"{start:06d}.npz"


def _chunk(seed: int, start: int, count: int, path: Path) -> None:
    examples = [example(seed, index) for index in range(start, start + count)]
    with atomic_file(path) as temporary:
        np.savez(
            temporary,
            images=np.stack([item.image for item in examples]),
            captions=np.array([item.caption for item in examples]),
        )


def _new_subject(rng: np.random.Generator) -> Subject:
    while near_catalogue(subject := sample_subject(rng)):
        pass
    return subject
