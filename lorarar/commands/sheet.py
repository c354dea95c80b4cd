"""Draw the same image through several bundles: `lorarar sheet BUNDLE … -o sheet.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.commands.drawing import add_drawing, check_png
from lorarar.console import print_table, status
from lorarar.files import atomic_file


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar sheet",
        description="Draw the same image through several bundles, with each LoRA alone and both merged: one picture\n"
        "and one table.\n\n"
        "Rows: the content LoRA alone, the style LoRA alone, their plain average (direct), the bundle's merger\n"
        "(learned). Columns: the bundles. The table gives each image's PSNR against the first bundle's, and where the\n"
        "time went.",
    )
    add = made.add_argument
    add("bundles", type=Path, nargs="+", metavar="BUNDLE", help="bundles of lorarar export pipeline, one a column")
    add("--content", type=Path, required=True, metavar="LORA", help="the content LoRA")
    add("--style", type=Path, required=True, metavar="LORA", help="the style LoRA")
    add("--content-image", type=Path, metavar="IMAGE", help="one that the content LoRA was made from, shown beside it")
    add("--style-image", type=Path, metavar="IMAGE", help="one that the style LoRA was made from")
    add_drawing(made)
    add("-o", "--out", type=Path, required=True, metavar="PNG", help="the sheet")
    return made


def run(args: argparse.Namespace) -> int:
    """Draw the sheet and print the table."""
    check_png(args.out)

    # Not above: `--help` answers without loading the runtime.
    from lorarar.images import on_white, open_image
    from lorarar.lora import read_lora
    from runtime_py.bundle import Bundle
    from runtime_py.sheet import COLUMNS, draw_column, make_sheet, table_rows

    content, style = read_lora(args.content), read_lora(args.style)
    given = {"content": args.content_image, "style": args.style_image}
    references = {row: on_white(open_image(path)) for row, path in given.items() if path}
    columns = {}
    with status("") as show:
        for path in args.bundles:
            show(f"{path}: opening and verifying")
            bundle = Bundle.open(path)
            name = f"{bundle.manifest['target']} {bundle.manifest['precision']}"
            name = name if name not in columns else f"{name} ({path.name})"
            session = bundle.session(keep=True)
            request = session.pipeline.request(args.prompt, seed=args.seed, steps=args.steps, guidance=args.guidance)
            columns[name] = draw_column(
                session,
                content,
                style,
                request,
                lambda stage, done, total, name=name: show(f"{name}: {stage} {done}/{total}"),  # type: ignore[misc]
            )
        with atomic_file(args.out) as temporary:
            make_sheet(columns, references).save(temporary, format="PNG")
    print_table(COLUMNS, table_rows(columns), "the same seed through every bundle; PSNR against the first", COLUMNS[:2])
    print(f"{args.out}: “{args.prompt}”")
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
