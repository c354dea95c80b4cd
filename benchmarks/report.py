"""One page of any number of benchmark records: tables, distributions, loads, throttling, the paper beside them.

    lorarar report RECORD.json… -o report.html [--markdown report.md]

`python -m benchmarks.report` is the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.command import add_out
from benchmarks.record import read_records
from benchmarks.report_pages import markdown, page, sort_key
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_file, check_output


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar report", description=__doc__.split("\n\n")[0])
    made.add_argument("records", nargs="+", type=Path, metavar="RECORD.json", help="files of `lorarar bench device -o`")
    add_out(made, "the HTML page", required=True)
    made.add_argument("--markdown", type=Path, metavar="FILE", help="the table and notes as Markdown too")
    return made


def run(args: argparse.Namespace) -> int:
    """Read all records and write the page."""
    for path in filter(None, (args.out, args.markdown)):
        check_output(path, *args.records)
    if args.markdown is not None and args.markdown.resolve() == args.out.resolve():
        raise InputError("`out` and `markdown` are the same file; give two")
    records = sorted((record for path in args.records for record in read_records(path)), key=sort_key)
    texts = {args.out: page(records), args.markdown: markdown(records)}
    for path, text in texts.items():
        if path is not None:
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    print(f"{len(records)} records in {args.out}; open it in a browser")
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
