"""Compare every part of a bundle with PyTorch's outputs, and its image with diffusers': `lorarar check BUNDLE`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lorarar.command_line import EXIT_FAILED_CHECK, EXIT_OK, Parser, main_of, run_command
from lorarar.console import console, print_table, status
from lorarar.files import atomic_file, check_json, whole


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar check",
        description="Run a bundle's artifacts on their golden inputs and compare them with PyTorch's outputs.",
        epilog="Exits 1 when a part is out of tolerance or could not be run, 2 when the bundle is damaged.",
    )
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle of lorarar export")
    made.add_argument("-o", "--out", type=Path, metavar="FILE", help="also write the rows as JSON")
    return made


def run(args: argparse.Namespace) -> int:
    """Check the bundle and print a table."""
    if args.out is not None:
        check_json(args.out, *whole(args.bundle))
    # Not above: `--help` answers without loading the runtime.
    from runtime_py.bundle import Bundle
    from runtime_py.check import check_bundle, check_table

    with status("opening and verifying the bundle") as show:
        bundle = Bundle.open(args.bundle)
        rows = check_bundle(bundle, show)
    table = check_table(bundle, rows)
    print_table(table.columns, table.rows, table.title, table.left)
    for note in table.notes:
        console().print(note)
    if args.out is not None:
        with atomic_file(args.out) as temporary:
            text = json.dumps([row.to_json() for row in rows], indent=2)
            temporary.write_text(text + "\n", encoding="utf-8")
    return EXIT_OK if rows and all(row.status == "passed" for row in rows) else EXIT_FAILED_CHECK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
