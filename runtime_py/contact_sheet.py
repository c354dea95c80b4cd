"""The same image through several bundles, with each LoRA alone and both merged: one picture and one table.

    lorarar sheet BUNDLE [BUNDLE …] --content L --style L --prompt P [--seed S] -o sheet.png

Rows: the content LoRA alone, the style LoRA alone, their plain average (direct), the bundle's merger (learned).
Columns: the bundles. The table gives each image's PSNR against the first bundle's, and where the time went.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_file
from lorarar.lora import LoRA, read_lora
from lorarar.merging import MergeOptions, merge_loras
from runtime_py.bundle import Bundle
from runtime_py.generate import merged_lora
from runtime_py.parity import psnr_db
from runtime_py.pipeline import Drawn, Pipeline, Report, defaults

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE = 2  # image pixels on the sheet for one of a small image
SMALL = 256  # sides below this are enlarged
MARGIN, LABEL, LEFT = 6, 18, 60  # pixels around images, of a line of words, and left for the rows' names


@dataclass(frozen=True)
class Cell:
    """One image of the sheet, and the seconds of its merge."""

    drawn: Drawn
    merge_s: float


def _direct(bundle: Bundle, content: LoRA, style: LoRA) -> LoRA:
    return merge_loras(content, style, bundle.layout, "direct", MergeOptions()).lora


ROWS: Mapping[str, Callable[[Bundle, LoRA, LoRA], LoRA | None]] = {
    "content": lambda bundle, content, style: content,
    "style": lambda bundle, content, style: style,
    "direct": _direct,
    "learned": lambda bundle, content, style: merged_lora(bundle, [content, style], 1.0, 1.0),
}
"""What is put on the UNet in each row of the sheet."""


def draw_column(
    bundle: Bundle, content: LoRA, style: LoRA, prompt: str, options: Mapping[str, Any], report: Callable[[str], None]
) -> dict[str, Cell]:
    """Every row's image through one bundle; its networks are loaded once, and only the adapter changes."""
    pipeline, request = Pipeline(bundle, keep=True), defaults(bundle, prompt, **options)
    cells = {}
    for row, lora_of in ROWS.items():
        watch = Stopwatch()
        with watch.stage("merge"):
            adapter = pipeline.adapter(lora_of(bundle, content, style))
        cells[row] = Cell(pipeline.draw(request, adapter, _told(report, row)), watch.seconds["merge"])
    return cells


def _told(report: Callable[[str], None], row: str) -> Report:
    return lambda stage, done, total: report(f"{row}: {stage} {done}/{total}")


def sheet(columns: Mapping[str, Mapping[str, Cell]], references: Mapping[str, Image]) -> Image:
    """The picture: a column a bundle, a row an adapter, with their names; before them what the LoRAs were made from."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    drawn = {name: {row: Pillow.fromarray(cells[row].drawn.image) for row in ROWS} for name, cells in columns.items()}
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


def read_image(path: Path) -> Image:
    """A picture as RGB. Raises InputError for what is none."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Pillow.DecompressionBombError) as error:
        raise InputError(f"{path}: can't be read as an image; give a PNG or JPEG") from error


def print_table(columns: Mapping[str, Mapping[str, Cell]]) -> None:
    """Each image against the first bundle's, and its times."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the same seed through every bundle")
    for column in ("bundle", "row", "PSNR to the first", "merge s", "text s", "steps s", "decode s"):
        table.add_column(column, justify="left" if column in ("bundle", "row") else "right", no_wrap=column == "bundle")
    reference = next(iter(columns.values()))
    for name, cells in columns.items():
        for row, cell in cells.items():
            drawn, seconds = cell.drawn, cell.drawn.watch.seconds
            value = psnr_db(reference[row].drawn.pixels, drawn.pixels)
            shown = f"{value:.1f} dB" if np.isfinite(value) else "equal"
            times = (f"{seconds[stage]:.2f}" for stage in ("text", "steps", "decode"))
            table.add_row(name, row, shown, f"{cell.merge_s:.3f}", *times)
    Console().print(table)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    if args.output.suffix.lower() != ".png":
        raise InputError(f"{args.output}: the sheet is a PNG; end its name with .png")

    from rich.console import Console

    content, style = read_lora(args.content), read_lora(args.style)
    given = {"content": args.content_image, "style": args.style_image}
    references = {row: read_image(path) for row, path in given.items() if path}
    options = {"seed": args.seed, "steps": args.steps, "guidance": args.guidance}
    columns: dict[str, dict[str, Cell]] = {}
    with Console(stderr=True).status("") as status:
        for path in args.bundles:
            status.update(f"{path}: opening and verifying")
            bundle = Bundle.open(path)
            name = f"{bundle.manifest['target']} {bundle.manifest['precision']}"
            name = name if name not in columns else f"{name} ({path.name})"
            columns[name] = draw_column(
                bundle,
                content,
                style,
                args.prompt,
                options,
                lambda text, name=name: status.update(f"{name}: {text}"),  # type: ignore[misc]
            )
        picture = sheet(columns, references)
        with atomic_file(args.output) as temporary:
            picture.save(temporary, format="PNG")
    print_table(columns)
    print(f"{args.output}: “{args.prompt}”")
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> Any:
    parser = Parser(prog="lorarar sheet", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundles of export.pipeline, one a column")
    add("--content", type=Path, required=True, metavar="LORA", help="the content LoRA")
    add("--style", type=Path, required=True, metavar="LORA", help="the style LoRA")
    add("--content-image", type=Path, metavar="IMAGE", help="one that the content LoRA was made from, shown beside it")
    add("--style-image", type=Path, metavar="IMAGE", help="one that the style LoRA was made from")
    add("--prompt", required=True, help="what to draw in every image")
    add("--steps", type=int, metavar="N", help="denoising steps (default: each bundle's)")
    add("--guidance", type=float, metavar="G", help="classifier-free guidance (default: each bundle's)")
    add("--seed", type=int, default=0, metavar="S", help="of the noise (default 0)")
    add("-o", "--output", type=Path, required=True, metavar="PNG", help="the sheet")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
