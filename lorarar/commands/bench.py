"""Time merges, UNets, pipelines and components, here and on phones.

    lorarar bench merge|methods|unet|pipeline|device|estimate …

Each subcommand is also `python -m benchmarks.NAME`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from lorarar.command_line import EXIT_OK, Parser, run_command

BENCHMARKS = {
    "merge": "the merge in all its forms, whole files, and ZipLoRA's optimisation beside it",
    "methods": "what each merging method costs in a session, in time and in bytes",
    "unet": "a step of the UNet with adapter inputs, and with the LoRA fused into the weights",
    "pipeline": "text to image, stage by stage, through several bundles",
    "device": "components of bundles on this computer or on phones, one record each; or a lower bound",
    "estimate": "how far off a lower bound is on this computer",
}
"""Subcommand, which is a module of `benchmarks` as well → what it times."""


def parser() -> Parser:
    """Make the command's parser, which leaves a benchmark's options to the benchmark."""
    listed = "\n".join(f"  {name:<10}{text}" for name, text in BENCHMARKS.items())
    made = Parser(prog="lorarar bench", description=__doc__.split("\n\n")[0], epilog=f"benchmarks:\n{listed}")
    made.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help="one of those below")
    made.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="…", help="its options; lorarar bench BENCHMARK --help tells them"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark and return its exit code; raises InputError for anything the user can put right."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given:
        parser().print_help()
        return EXIT_OK
    args = parser().parse_args(given)
    code: int = import_module(f"benchmarks.{args.benchmark}").main(args.options)
    return code


if __name__ == "__main__":
    run_command(main)
