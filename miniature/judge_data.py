"""Draw for the judge: what it is trained on, and subjects that differ in a detail; wear images out.

Neither the 30 catalogue subjects, nor any subject near them, nor the 26 gallery styles are drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from miniature.catalogue import fresh_subject
from miniature.judge_network import DETAILS
from miniature.pixels import to_bytes, to_pixels
from miniature.population import Chunk, drawn_chunks
from miniature.progress import Report, silent
from miniature.scene import picture
from miniature.styles import FAMILIES, DrawnStyle, random_style
from miniature.styles_palette import hsv
from miniature.subjects import COLOURS, CONTRAST, KINDS, MARKINGS, RGB, Subject, colour_name, distance

TRAINING, CALIBRATION, REPORT = 1_000_000, 2_000_000, 3_000_000
"""Where each use's drawings begin: the base's population has the numbers below, from the same seeds."""

GROUP = 8  # drawings of one family: two styles, four subjects each
STYLES = 2
PLAIN = len(FAMILIES)  # the number of "no style" among the families
PLAIN_SHARE = 0.3  # of the groups; every subject reference is plain, so the judge must know those best
FREE_SHARE = 0.6  # of the styles have a free palette
CHUNK = 400  # drawings a file
NOISE = 0.08  # largest standard deviation, of a range of 2
TINT = 0.06  # standard deviation of each channel's gain and offset
WEAR_SHARE = 0.6  # of the images get each kind of wear
KERNEL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
UNSEEN = -1  # the number of a colour that a subject does not show
TOLD_BY = {"kind": None, "marking_colour": "marking", "accessory_colour": "accessory"}
"""The caption's detail that tells one of DETAILS, where its name is another; a kind is always told."""

CHANGEABLE = {
    "body": ("body",),
    "second": ("second",),
    "marking": ("marking", "marking_colour"),
    "accessory": ("accessory", "accessory_colour"),
}
"""What two subjects of one kind may differ in: details, and the fields of Subject that change one."""


@dataclass(frozen=True)
class Drawings:
    """Training drawings with what they show."""

    images: UInt8[np.ndarray, "n size size 3"]
    details: Int[np.ndarray, "n d"]  # per detail of DETAILS the number of its value, or UNSEEN
    styles: Int[np.ndarray, " n"]  # equal where the style is the same
    families: Int[np.ndarray, " n"]  # numbers of FAMILIES, or PLAIN


def sample_style(rng: np.random.Generator, family: str) -> DrawnStyle:
    """Draw any style of a family, often with a freer palette than the base's population has.

    Held-out styles are stronger and more particular than most random ones, and a judge must be sure of neither the
    colours nor the style where it has never seen such palettes.
    """
    style = random_style(rng, family)
    if FAMILIES[family].palette.hue != (0.0, 1.0) or rng.random() > FREE_SHARE:
        return style
    values, hues = rng.uniform((0.02, 0.3, 0.75), (0.45, 0.9, 1.0)), rng.random(3)
    inks = tuple(hsv(hue, rng.uniform(0, 0.95), value) for hue, value in zip(hues, values, strict=True))
    paper = hsv(rng.random(), rng.uniform(0, 0.8) * rng.random(), rng.uniform(0.05, 1.0))
    palette = replace(style.palette, strength=rng.uniform(0.3, 1.0), inks=inks)
    return replace(style, palette=replace(palette, paper=paper) if rng.random() < 0.5 else palette)


def details_of(subject: Subject) -> list[int]:
    """Return the number of each detail's value, in the order of DETAILS."""
    said = {"kind": subject.kind} | subject.looks()
    numbers = []
    for detail, values in DETAILS.items():
        value = said[detail]
        name = colour_name(value) if isinstance(value, tuple) else value
        numbers.append(UNSEEN if name is None else values.index(name))
    return numbers


def changed(subject: Subject, rng: np.random.Generator, count: int) -> Subject:
    """Change `count` of a subject's details, each in one visible look: what must not pass for it."""
    shown = subject.looks()
    for detail in rng.choice(list(CHANGEABLE), count, replace=False):
        look = str(rng.choice([look for look in CHANGEABLE[str(detail)] if shown[look] is not None]))
        value: Any = _other(subject, look, rng)
        subject = replace(subject, **{look: value})
    return subject


def _other(subject: Subject, name: str, rng: np.random.Generator) -> RGB | str:
    if name == "marking":
        return str(rng.choice([value for value in MARKINGS if value != subject.marking]))
    if name == "accessory":
        return str(rng.choice([v for v in ("none", *KINDS[subject.kind].accessories) if v != subject.accessory]))
    # A body's new colour stands apart from all that is on it, another one from its old self and the body.
    neighbours = [subject.body, subject.second, subject.marking_colour] if name == "body" else [subject.body]
    apart = [getattr(subject, name), *neighbours]
    choices = [rgb for rgb in COLOURS.values() if all(distance(rgb, other) > CONTRAST for other in apart)]
    # Three colours together can leave none: then it is enough to differ from the old one.
    choices = choices or [rgb for rgb in COLOURS.values() if distance(rgb, apart[0]) > CONTRAST]
    return choices[int(rng.integers(len(choices)))]


def training_drawings(seed: int, count: int, folder: Path, workers: int = 2, report: Report = silent) -> Drawings:
    """Draw what is missing of the training drawings in `folder`, and read all; `count` is rounded up to chunks."""
    chunks = {folder / f"{seed}-{first:06d}.npz": range(first, first + CHUNK) for first in range(0, count, CHUNK)}
    parts = list(drawn_chunks(partial(_chunk, seed), chunks, workers, "drawing for the judge", report))
    return Drawings(**{field.name: np.concatenate([part[field.name] for part in parts]) for field in fields(Drawings)})


def _chunk(seed: int, numbers: range) -> Chunk:
    rows = [row for number in range(numbers.start // GROUP, numbers.stop // GROUP) for row in _group(seed, number)]
    columns = map(np.array, zip(*rows, strict=True))
    return {field.name: column for field, column in zip(fields(Drawings), columns, strict=True)}


def _group(seed: int, number: int) -> list[tuple[np.ndarray, list[int], int, int]]:
    """Draw GROUP pictures of one family, as rows of Drawings; plain ones are all of one style, number 0."""
    rng = np.random.default_rng((seed, TRAINING + number))
    family = PLAIN if rng.random() < PLAIN_SHARE else int(rng.integers(len(FAMILIES)))
    rows = []
    for row in range(STYLES):
        style = None if family == PLAIN else sample_style(rng, list(FAMILIES)[family])
        style_number = 0 if style is None else 1 + STYLES * number + row
        for _ in range(GROUP // STYLES):
            subject = fresh_subject(rng)
            rows.append((picture(subject, style, rng), details_of(subject), style_number, family))
    return rows


def worn(
    images: Float[Tensor, "n 3 h w"], generator: torch.Generator, strength: float = 1.0
) -> Float[Tensor, "n 3 h w"]:
    """Blur, coarsen, spoil and tint images in [-1, 1], each to a random extent up to `strength`."""
    count = len(images)

    def extent() -> Float[Tensor, "n 1 1 1"]:
        amount = torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < WEAR_SHARE)
        return strength * amount.view(count, 1, 1, 1)

    kernel = torch.outer(KERNEL, KERNEL).expand(3, 1, 5, 5)
    soft = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    images = torch.lerp(images, soft, extent())
    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    images = torch.lerp(images, coarse, extent())
    gain, offset = (torch.randn(count, 3, 1, 1, generator=generator) * TINT * strength for _ in range(2))
    images = images * (1 + gain) + offset
    images = images + torch.randn(images.shape, generator=generator) * NOISE * extent()
    return images.clamp(-1, 1)


def worn_images(images: UInt8[np.ndarray, "n h w 3"], generator: torch.Generator) -> UInt8[np.ndarray, "n h w 3"]:
    """Do as `worn` with images of bytes."""
    return to_bytes(worn(to_pixels(torch.from_numpy(images)), generator)).numpy()
