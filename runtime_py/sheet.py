"""Draw the same image through several bundles, with each LoRA alone and both merged, on one contact sheet.

Rows: the content LoRA alone, the style LoRA alone, their plain average (direct), the bundle's merger (learned).
Columns: the bundles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lorarar.lora import LoRA
from runtime_py.parity import psnr_db
from runtime_py.pipeline import Drawn, Request
from runtime_py.session import Session
from runtime_py.stages import OnStage, timed

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE = 2  # image pixels on the sheet for one of a small image
SMALL = 256  # images whose sides are below this are enlarged
MARGIN, LABEL, LEFT = 6, 18, 60  # pixels around images, of a line of words, and left for the rows' names
ROWS = ("content", "style", "direct", "learned")
"""What is put on the UNet in each row of the sheet."""
COLUMNS = ("bundle", "row", "PSNR", "merge s", "text s", "steps s", "decode s")
"""The headings of `table_rows`; the PSNR is that against the first bundle's image."""


def draw_column(session: Session, content: LoRA, style: LoRA, request: Request, on_stage: OnStage) -> dict[str, Drawn]:
    """Draw every row's image through one bundle, and return them by row; their seconds have a stage `merge` more.

    The session keeps the bundle's components, and only the adapter changes. Raises InputError for LoRAs that do not
    fit the bundle.
    """
    column = {}
    for row in ROWS:
        seconds: dict[str, float] = {}
        with timed(seconds, "merge"):
            session.load({"content": [content], "style": [style]}.get(row, [content, style]))
            session.merge(row if row in ("direct", "learned") else "learned")
        column[row] = session.draw(request, on_stage=_in_row(on_stage, row))
        column[row].seconds.update(seconds)
    return column


def _in_row(on_stage: OnStage, row: str) -> OnStage:
    return lambda stage, done, total: on_stage(f"{row}: {stage}", done, total)


def make_sheet(columns: Mapping[str, Mapping[str, Drawn]], references: Mapping[str, Image]) -> Image:
    """Lay the images out: a column a bundle, a row an adapter, with their names.

    `references` are images that the LoRAs were made from, by row; they stand before the first column.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    drawn = {name: {row: Pillow.fromarray(column[row].image) for row in ROWS} for name, column in columns.items()}
    shown = ({"reference": references} if references else {}) | drawn
    first = next(iter(next(iter(drawn.values())).values()))
    side = first.width * (SCALE if first.width < SMALL else 1)
    width = LEFT + len(shown) * (side + MARGIN) + MARGIN
    height = LABEL + len(ROWS) * (side + MARGIN) + MARGIN
    picture = Pillow.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    for y, row in enumerate(ROWS):
        pen.text((4, LABEL + y * (side + MARGIN) + side // 2), row, fill="black")
    for x, (name, images) in enumerate(shown.items()):
        left = LEFT + x * (side + MARGIN)
        pen.text((left, 3), name, fill="black")
        for y, row in enumerate(ROWS):
            if row in images:
                cell = images[row].resize((side, side), Pillow.Resampling.LANCZOS)
                picture.paste(cell, (left, LABEL + y * (side + MARGIN)))
    return picture


def table_rows(columns: Mapping[str, Mapping[str, Drawn]]) -> list[tuple[str, ...]]:
    """Compare each image with the first bundle's, and tell its times: one row of COLUMNS each."""
    reference = next(iter(columns.values()))
    rows = []
    for name, column in columns.items():
        for row, drawn in column.items():
            value = psnr_db(reference[row].pixels, drawn.pixels)
            shown = f"{value:.1f} dB" if np.isfinite(value) else "equal"
            times = (f"{drawn.seconds[stage]:.2f}" for stage in ("text", "steps", "decode"))
            rows.append((name, row, shown, f"{drawn.seconds['merge']:.3f}", *times))
    return rows
