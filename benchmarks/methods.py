"""Measure what each merging method costs a session, which is what an app holds: until the first image, and for another
strength.

A merge that is coefficients writes these alone. Any other is made as a LoRA, which is then stacked and loaded anew. The
methods take turns, and this machine's sgemm with them. ZipLoRA's optimisation is in `lorarar bench merge`, and SSR's
two passes of the UNet come on top. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.command import add_run_options, choices, given_pair, measure, run_settings, say_if_busy
from benchmarks.merge_work import random_loras
from benchmarks.methods_times import COMPOSED, MEASURED, measure_methods
from benchmarks.record import require_timed_here
from lorarar.command_line import Parser, main_of, run_command
from lorarar.console import console, print_table
from lorarar.files import whole
from runtime_py.bundle import Bundle


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar bench methods", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="a bundle of `lorarar export`, of the hypernetwork or a pipeline")
    add("--content", type=Path, metavar="LORA", help="merge this content LoRA with --style (default: random numbers)")
    add("--style", type=Path, metavar="LORA", help="the style LoRA, beside --content")
    add("--methods", default=",".join(MEASURED), metavar="A,B,…", help="methods (default %(default)s)")
    add_run_options(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Measure every method, print the table, and give the document out."""
    pair, methods = given_pair(args), choices("methods", args.methods, MEASURED)
    settings = run_settings(args, *whole(args.bundle), args.content, args.style)
    bundle = Bundle.open(args.bundle)
    require_timed_here(bundle.manifest["target"], str(args.bundle))
    pair = pair or random_loras(bundle.layout, bundle.stack.rank // bundle.stack.loras)
    return measure(lambda say: measure_methods(bundle, pair, methods, settings, say), _print, args.out)


def _print(document: dict[str, Any]) -> None:
    rows = []
    for case in document["cases"]:
        times = [f"{case[key] * 1e3:.1f} ms" for key in ("first_s", "again_s")]
        often = " a step" if case["every_step"] else ""
        rows.append((case["name"], *times, case["writes"], f"{case['written_bytes'] / 1e6:.1f} MB{often}"))
    ranks = " and ".join(str(rank) for rank in document["ranks"])
    title = f"{document['base']}, LoRAs of rank {ranks}, medians"
    columns = ("method", "first image", "another strength", "what it writes", "written")
    print_table(columns, rows, title, left=("method", "what it writes"))
    if COMPOSED in {case["name"] for case in document["cases"]}:
        console().print(f"{COMPOSED}: beside the merge that follows it; 4 passes of the UNet a composed step, not 2")
    say_if_busy(document["steadiness"])


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
