"""Draw the same image through several bundles: `lorarar sheet BUNDLE … -o sheet.png`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.commands.drawing import add_drawing, carried_warnings, request_of
from lorarar.console import print_table, status, warn
from lorarar.errors import InputError
from lorarar.files import atomic_file, check_png, whole

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle
    from runtime_py.sheet import Block, Column


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar sheet",
        description="Draw the same image through several bundles, with each LoRA alone and both merged: one picture\n"
        "and one table.\n\n"
        "Rows: the content LoRA alone, the style LoRA alone, their plain average (direct), the bundle's hypernetwork\n"
        "(learned). Columns: the bundles. Below, a row a bundle: from all content to all style. The table gives each\n"
        "image's PSNR against the first bundle's, and where the time went.",
    )
    add = made.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundles of lorarar export pipeline, one a column")
    add("--content", type=Path, required=True, metavar="LORA", help="the content LoRA")
    add("--style", type=Path, required=True, metavar="LORA", help="the style LoRA")
    add(
        "--grid",
        metavar="LOW:HIGH:N",
        help="instead: N strengths of content (rows) and of style (columns), merged; --grid=-1:1:5 from below 0",
    )
    add("--content-image", type=Path, metavar="IMAGE", help="one that the content LoRA was made from, shown beside it")
    add("--style-image", type=Path, metavar="IMAGE", help="one that the style LoRA was made from")
    add_drawing(made)
    add("-o", "--out", type=Path, required=True, metavar="PNG", help="the sheet")
    return made


def run(args: argparse.Namespace) -> int:
    """Draw the sheet and print the table."""
    check_png(args.out, *whole(*args.bundles), *filter(None, (args.content_image, args.style_image)))
    # Not above: `--help` answers without loading the runtime.
    from runtime_py.sheet import COLUMNS, make_sheet, parse_grid, table_rows

    strengths = parse_grid(args.grid) if args.grid else ()
    shown = next((name for name in ("content_image", "style_image") if getattr(args, name)), None)
    if strengths and shown:
        raise InputError(f"`{shown}` is shown in a sheet and not in a `grid`; leave one of them out")
    with status("") as show:
        blocks, columns, notes = _drawn(args, strengths, show)
        with atomic_file(args.out) as temporary:
            make_sheet(blocks).save(temporary, format="PNG")
    warn(notes)
    if columns:
        title = "the same seed through every bundle; PSNR against the first"
        print_table(COLUMNS, table_rows(columns), title, COLUMNS[:2])
    print(f"{args.out}: “{args.prompt}”")
    return EXIT_OK


def _drawn(
    args: argparse.Namespace, strengths: Sequence[float], show: Callable[[str], None]
) -> tuple[list[Block], dict[str, Column], list[str]]:
    """Draw through every bundle: a grid of strengths each, or the columns of a sheet; and tell what was left out."""
    # Not above, as in `run`.
    from lorarar.images import on_white, open_image
    from lorarar.lora import read_lora
    from runtime_py.pipeline import Pipeline
    from runtime_py.sheet import check_merges, check_sizes, draw_column, draw_grid, grid_block, sheet_blocks

    content, style = read_lora(args.content), read_lora(args.style)
    given = {"content": args.content_image, "style": args.style_image}
    references = {row: on_white(open_image(path)) for row, path in given.items() if path}
    grids: list[Block] = []
    columns: dict[str, Column] = {}
    notes: list[str] = []
    bundles = _opened(args.bundles, show)
    requests = {name: request_of(args, Pipeline(bundle)) for name, bundle in bundles.items()}
    if not strengths:
        check_sizes(bundles)
    check_merges(bundles, content, style)
    for name, bundle in bundles.items():
        tell, request = partial(_tell, show, name), requests[name]
        session = bundle.session(keep=True)
        if strengths:
            session.load([content, style])
            grids.append(grid_block(name, draw_grid(session, request, strengths, tell), strengths))
        else:
            columns[name] = draw_column(session, content, style, request, tell)
        notes += [f"{name}: {note}" for note in (*carried_warnings(session), *session.notes)]
    return grids or sheet_blocks(columns, references), columns, notes


def _opened(paths: Sequence[Path], show: Callable[[str], None]) -> dict[str, Bundle]:
    """Open all bundles, and give each a name of its own."""
    # Not above, as in `run`.
    from runtime_py.bundle import Bundle
    from runtime_py.sheet import names_of

    bundles = []
    for path in paths:
        show(f"{path}: opening and verifying")
        bundles.append(Bundle.open(path))
    return dict(zip(names_of(bundles), bundles, strict=True))


def _tell(show: Callable[[str], None], name: str, stage: str, done: int, total: int) -> None:
    show(f"{name}: {stage} {done}/{total}")


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
