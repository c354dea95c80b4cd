"""Draw the same image through several bundles on one contact sheet: LoRAs alone and merged, and by strengths.

Rows: the content LoRA alone, the style LoRA alone, their plain average (direct), the bundle's hypernetwork (learned).
Columns: the bundles. Below, a row a bundle: from all content to all style. A grid has a content strength a row and a
style strength a column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lorarar.errors import InputError
from lorarar.lora import LoRA
from runtime_py.parity import psnr_db
from runtime_py.pipeline import Drawn, Request
from runtime_py.session import Session
from runtime_py.stages import OnStage, timed

if TYPE_CHECKING:
    from PIL.Image import Image

    from runtime_py.bundle import Bundle

SCALE = 2  # image pixels on the sheet for one of a small image
SMALL = 256  # images whose sides are below this are enlarged
MARGIN, LABEL, LEFT = 6, 18, 96  # pixels around images, of a line of words, and left for the rows' names
ROWS = ("content", "style", "direct", "learned")
"""What is put on the UNet in each row of the sheet."""
SWEEP = tuple((2 - share, share) for share in (0.0, 0.5, 1.0, 1.5, 2.0))
"""Strengths of content and style in the row of strengths; the middle is the paper's, and the learned row's image."""
MIDDLE = SWEEP.index((1.0, 1.0))
MAX_GRID = 8  # strengths of one LoRA in a grid
COLUMNS = ("bundle", "row", "PSNR", "merge ms", "text s", "steps s", "decode s")
"""The headings of `table_rows`; the PSNR is that against the first bundle's image."""


@dataclass(frozen=True)
class Column:
    """What one bundle drew."""

    rows: Mapping[str, Drawn]  # by ROWS; their seconds have a stage `merge` more
    sweep: Sequence[Drawn]  # by SWEEP


def names_of(bundles: Sequence[Bundle]) -> list[str]:
    """Name bundles by target and precision; those of one name also by their folder, and if need be by their place."""
    names = [f"{bundle.manifest['target']} {bundle.manifest['precision']}" for bundle in bundles]
    for details in ([bundle.path.resolve().name for bundle in bundles], range(1, len(bundles) + 1)):
        pairs = zip(names, details, strict=True)
        names = [f"{name} ({detail})" if names.count(name) > 1 else name for name, detail in pairs]
    return names


def check_sizes(bundles: Mapping[str, Bundle]) -> None:
    """Refuse bundles, by name, that draw images of different sizes: there is no PSNR between these."""
    sides = {name: bundle.manifest["pipeline"]["pixels"] for name, bundle in bundles.items()}
    if len(set(sides.values())) > 1:
        told = ", ".join(f"{name} {side}×{side}" for name, side in sides.items())
        raise InputError(f"the bundles draw images of different sizes ({told}); give bundles of one size")


def check_merges(bundles: Mapping[str, Bundle], content: LoRA, style: LoRA) -> None:
    """Refuse bundles, by name, without a hypernetwork, or that the two LoRAs do not fit, before any draws."""
    for bundle in bundles.values():
        bundle.component("hypernet")
        bundle.stacked([content, style])


def draw_column(session: Session, content: LoRA, style: LoRA, request: Request, on_stage: OnStage) -> Column:
    """Draw every row's image and the row of strengths through one bundle, which keeps its components.

    Raises InputError for LoRAs that do not fit the bundle.
    """
    rows, alone = {}, {"content": [content], "style": [style]}
    session.open("hypernet")  # now, since loading it is no part of a merge
    for row in ROWS:
        seconds: dict[str, float] = {}
        session.load(alone.get(row, [content, style]))
        _ = session.carried  # measured in the background, where it would take time from the merge
        with timed(seconds, "merge"):
            session.merge(row if row in ("direct", "learned") else "learned")
        # A composed start is of two LoRAs.
        asked = replace(request, composed=None) if row in alone else request
        rows[row] = session.draw(asked, on_stage=_in_row(on_stage, row))
        rows[row].seconds.update(seconds)
    others = (*SWEEP[:MIDDLE], *SWEEP[MIDDLE + 1 :])
    sweep = session.draw_strengths(request, others, on_stage=_in_row(on_stage, "strengths"))
    sweep.insert(MIDDLE, rows["learned"])
    return Column(rows, sweep)


def draw_grid(session: Session, request: Request, strengths: Sequence[float], on_stage: OnStage) -> list[list[Drawn]]:
    """Draw the loaded pair at all these strengths of content (rows) and style (columns), by the learned merge."""
    session.merge("learned")
    pairs = [(content, style) for content in strengths for style in strengths]
    drawn = session.draw_strengths(request, pairs, on_stage=on_stage)
    count = len(strengths)
    return [drawn[start : start + count] for start in range(0, len(drawn), count)]


def parse_grid(text: str) -> tuple[float, ...]:
    """Read `LOW:HIGH:N` as N strengths from LOW to HIGH. Raises InputError for anything else."""
    try:
        low, high, number = text.split(":")
        ends, count = (float(low), float(high)), int(number)
    except ValueError:
        ends, count = (math.nan, math.nan), 0
    if not 2 <= count <= MAX_GRID or not all(map(math.isfinite, ends)):
        raise InputError(f"`grid` is {text!r}; give LOW:HIGH:N with N from 2 to {MAX_GRID}, such as 0:1.5:4")
    found = tuple(np.linspace(*ends, count).tolist())
    if len({f"{value:g}" for value in found}) < count:
        raise InputError(f"`grid` is {text!r}, some of whose strengths are the same; give ends that are farther apart")
    return found


def _in_row(on_stage: OnStage, row: str) -> OnStage:
    return lambda stage, done, total: on_stage(f"{row}: {stage}", done, total)


@dataclass(frozen=True)
class Block:
    """Images in rows and columns, with the names of both."""

    columns: Sequence[str]
    rows: Mapping[str, Sequence[Image | None]]


def sheet_blocks(columns: Mapping[str, Column], references: Mapping[str, Image]) -> list[Block]:
    """Arrange what bundles drew; `references` (what the LoRAs were made from) stand before the rows."""
    rows = {
        row: [references.get(row)] * bool(references) + [_image(column.rows[row]) for column in columns.values()]
        for row in ROWS
    }
    names = ["reference"] * bool(references) + list(columns)
    shares = [f"{content:g} : {style:g}" for content, style in SWEEP]
    sweep = {name: [_image(drawn) for drawn in column.sweep] for name, column in columns.items()}
    return [Block(names, rows), Block(shares, sweep)]


def grid_block(name: str, grid: Sequence[Sequence[Drawn]], strengths: Sequence[float]) -> Block:
    """Arrange a grid: content strengths down, style strengths across."""
    across = [f"style {value:g}" for value in strengths]
    return Block(
        [f"{name}: {across[0]}", *across[1:]],
        {f"content {value:g}": [_image(one) for one in row] for value, row in zip(strengths, grid, strict=True)},
    )


def make_sheet(blocks: Sequence[Block]) -> Image:
    """Lay blocks of images out below each other, with their names."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    # Of the last block, which holds no references.
    first = next(image for row in blocks[-1].rows.values() for image in row if image)
    side = first.width * (SCALE if first.width < SMALL else 1)
    width = LEFT + max(len(block.columns) for block in blocks) * (side + MARGIN) + MARGIN
    height = sum(LABEL + len(block.rows) * (side + MARGIN) + MARGIN for block in blocks)
    picture = Pillow.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    top = 0
    for block in blocks:
        for x, name in enumerate(block.columns):
            pen.text((LEFT + x * (side + MARGIN), top + 3), name, fill="black")
        top += LABEL
        for name, row in block.rows.items():
            pen.text((4, top + side // 2), name, fill="black")
            for x, image in enumerate(row):
                if image is not None:
                    cell = image.resize((side, side), Pillow.Resampling.LANCZOS)
                    picture.paste(cell, (LEFT + x * (side + MARGIN), top))
            top += side + MARGIN
        top += MARGIN
    return picture


def _image(drawn: Drawn) -> Image:
    from PIL import Image as Pillow

    return Pillow.fromarray(drawn.image)


def table_rows(columns: Mapping[str, Column]) -> list[tuple[str, ...]]:
    """Compare each image with the first bundle's, and tell its times: one row of COLUMNS each."""
    reference = next(iter(columns.values()))
    rows = []
    for name, column in columns.items():
        for row, drawn in column.rows.items():
            shown = _shown(psnr_db(reference.rows[row].pixels, drawn.pixels))
            rows.append((name, row, shown, f"{drawn.seconds['merge'] * 1e3:.1f}", *_times(drawn)))
        pairs = list(zip(reference.sweep, column.sweep, strict=True))
        del pairs[MIDDLE]
        worst = min(psnr_db(one.pixels, other.pixels) for one, other in pairs)
        rows.append((name, f"{len(pairs)} strengths", _shown(worst), "", *_times(column.sweep[0])))
    return rows


def _shown(value: float) -> str:
    return "equal" if value == np.inf else f"{value:.1f} dB"


def _times(drawn: Drawn) -> tuple[str, ...]:
    return tuple(f"{drawn.seconds[stage]:.2f}" for stage in ("text", "steps", "decode"))
