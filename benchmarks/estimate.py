"""Tell how far off a lower bound is: make one of this computer's own measured limits, and run the component.

    lorarar bench estimate BUNDLE [--component NAME] [-o FILE]

The bounds for phones are made by `lorarar bench device --estimate PHONE`. `python -m benchmarks.estimate` is the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.bounds import check_on_this_computer
from benchmarks.command import add_out, check_files
from benchmarks.record import write_records
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from runtime_py.bundle import Bundle


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar bench estimate", description=__doc__.split("\n\n")[0])
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle for ONNX Runtime or Core ML")
    made.add_argument("--component", default="unet", metavar="NAME", help="of the bundle (default %(default)s)")
    add_out(made, "write the measured record")
    return made


def run(args: argparse.Namespace) -> int:
    """Measure, and print the bound beside the run."""
    check_files(args, "out")
    found = check_on_this_computer(Bundle.open(args.bundle), args.component)
    measured = found["record"]["runs"]["p50_s"]
    print(
        f"at least {found['bound_s'] * 1e3:.3g} ms by {found['limit']}; measured p50 {measured * 1e3:.3g} ms, "
        f"{found['over']:.1f} times the bound"
    )
    if args.out is not None:
        write_records([found["record"]], args.out)
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
