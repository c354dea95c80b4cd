"""Measure a step of the UNet: with live coefficients, and with a LoRA fused into the weights instead, in one run.

Exports what is not in `--bundles` yet, with the command that users have, then runs all cases in turn, this machine's
sgemm among them. Close other programs first. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.command import add_run_options, choices, measure, run_settings, say_if_busy
from benchmarks.record import ANYWHERE
from benchmarks.unet_times import UNetExport, measure_unets
from export.options import require_stack
from export.targets import find_target, require_toolchains
from lorarar.base.names import BASES_HELP, DEFAULT_BASE, base_files
from lorarar.command_line import Parser, main_of, run_command
from lorarar.console import console, print_table
from lorarar.errors import InputError
from lorarar.files import whole
from lorarar.settings import words


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar bench unet", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--untrained", action="store_true", help="a named base with seeded random weights")
    add("--rank", type=int, metavar="R", help="rank of one LoRA; two are stacked (default: the base's own)")
    add("--target", default=",".join(ANYWHERE), metavar="T,T…", help="what to run (default %(default)s)")
    add("--precision", default="fp32", metavar="P,P…", help="precisions of the UNet (default %(default)s)")
    add("--resolution", type=int, metavar="PIXELS", help="side of the image (default: the base's own)")
    add("--batch", type=int, choices=(1, 2), default=1, help="2: with guidance (default 1)")
    add("--bundles", type=Path, metavar="DIR", help="keep the exported UNets there, and use those that are there")
    add_run_options(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Measure every case, print the tables, and give the document out."""
    cases = list(product(choices("target", args.target, ANYWHERE), dict.fromkeys(words(args.precision))))
    if not cases:
        raise InputError("`precision` is empty; give one such as fp32, or several with commas")
    for target, precision in cases:
        find_target(target).require("unet", precision)
    for target in dict.fromkeys(target for target, _ in cases):
        require_toolchains(find_target(target))
    if args.rank is not None:
        require_stack(args.rank)
    kept = filter(Path.is_file, whole(args.bundles)) if args.bundles else ()
    settings = run_settings(args, *base_files(args.base), *kept)
    unet = UNetExport(args.base, args.untrained, args.rank, args.resolution, args.batch)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.bundles or Path(temporary)
        return measure(lambda say: measure_unets(unet, cases, settings, folder, say), _print, args.out)


def _print(document: dict[str, Any]) -> None:
    rows = []
    for case in document["cases"]:
        times = (f"{case[key] * 1e3:.1f} ms" for key in ("median_s", "best_s"))
        rows.append((case["name"], *times, f"{case['bytes'] / 1e6:.0f}", _parity(case["psnr_db"])))
    size = "×".join(str(size) for size in document["sample"])
    title = f"{document['base']}, one step, latents {size}"
    print_table(("UNet", "median", "best", "MB", "PSNR"), rows, title, left=("UNet",))
    for cost in document["costs"]:
        verdict = {None: "", True: ": pass", False: ": FAIL"}[cost.get("passed")]
        limit = f" (≤ {cost['limit_percent']:g} %)" if "limit_percent" in cost else ""
        rank = document["stacked_rank"]
        console().print(
            f"{cost['case']}: LoRAs of rank {rank} together cost {cost['cost_percent']:+.1f} %{limit}{verdict}"
        )
    say_if_busy(document["steadiness"])


def _parity(psnr: float | None) -> str:
    return "" if psnr is None else f"{psnr:.1f} dB"  # of bit-for-bit equality there is none


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
