"""Measure steps of ZipLoRA's optimisation of one pair, for the merge benchmark, which runs this command.

    python -m benchmarks.merge_ziplora --base BASE --rank R --steps N --threads T

It is a process of its own, so that its peak memory is its own too. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json

from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.settings import check_at_least


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="python -m benchmarks.merge_ziplora", description=__doc__.split("\n\n")[0])
    made.add_argument("--base", required=True, help="whose UNet is optimised for, with random weights")
    made.add_argument("--rank", type=int, required=True, help="of both LoRAs")
    made.add_argument("--steps", type=int, default=1, help="measured, after one that is not (default %(default)s)")
    made.add_argument("--threads", type=int, default=2, help="of PyTorch (default %(default)s)")
    return made


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    check_at_least(1, rank=args.rank, steps=args.steps, threads=args.threads)
    from benchmarks.ziplora_steps import measure_steps  # here, since `--help` needs no PyTorch

    print(json.dumps(measure_steps(args.base, args.rank, args.steps, args.threads)))
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
