"""Measure one component on this computer: the process that `lorarar bench device --device local` starts for each.

    python -m benchmarks.local_run BUNDLE COMPONENT [--runs N] [--warmup N] [--threads N]

The last line of stdout is one record.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from benchmarks.devices.device import MeasureOptions
from benchmarks.devices.local import Local, measure_component
from benchmarks.record import check_record
from lorarar.command_line import EXIT_OK, Parser, add_settings, given_settings, main_of, run_command
from runtime_py.bundle import Bundle


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="python -m benchmarks.local_run", description=__doc__.split("\n\n")[0])
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle's folder")
    made.add_argument("component", metavar="COMPONENT", help="what of it to run")
    ours = set(Local.takes) - {"timeout_s"}
    add_settings(made, MeasureOptions(), skip=[item.name for item in fields(MeasureOptions) if item.name not in ours])
    return made


def run(args: argparse.Namespace) -> int:
    """Measure, and print the record."""
    record = measure_component(Bundle.open(args.bundle), args.component, given_settings(args, MeasureOptions()))
    print(json.dumps(check_record(record, "the record")))
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
