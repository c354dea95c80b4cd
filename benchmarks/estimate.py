"""Tell how far off a lower bound is: make one of this computer's own measured limits, and run the component.

The bounds for phones are made by `lorarar bench device --estimate PHONE`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.bounds import bound, count_work
from benchmarks.command import add_out
from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.local import ThisComputer
from benchmarks.record import require_timed_here, write_records
from benchmarks.timing import measure_machine
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.errors import InputError
from lorarar.files import check_output, whole
from lorarar.toolchains import require_torch
from runtime_py.bundle import Bundle


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar bench estimate", description=__doc__.split("\n\n")[0])
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="for ONNX Runtime; on a Mac, Core ML too")
    made.add_argument("--component", default="unet", metavar="NAME", help="of the bundle (default %(default)s)")
    add_out(made, "write the measured record")
    return made


def run(args: argparse.Namespace) -> int:
    """Measure, and print the bound beside the run."""
    if args.out is not None:
        check_output(args.out, *whole(args.bundle))
    bundle = Bundle.open(args.bundle)
    require_timed_here(bundle.manifest["target"], str(args.bundle))
    work = count_work(bundle, args.component)
    require_torch()
    machine = measure_machine()
    least, limit = bound(work, machine.sgemm, machine.read_bandwidth)
    try:
        record = ThisComputer().measure(bundle, args.component, MeasureOptions(), Watch())
    except DeviceFailed as error:
        raise InputError(str(error)) from None
    if args.out is not None:  # before it is shown, which a closed pipe ends
        write_records([record], args.out)
    measured = record["runs"]["p50_s"]
    print(
        f"at least {least * 1e3:.3g} ms by {limit}; measured p50 {measured * 1e3:.3g} ms, "
        f"{measured / least:.1f} times the bound"
    )
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
