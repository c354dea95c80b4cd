"""Measure the merge: coefficients in three forms, artifacts, strengths, files, and ZipLoRA's optimisation (Table 2).

Steps of ZipLoRA's optimisation run in a process of its own; then PyTorch, ONNX Runtime and ExecuTorch in one
interleaved run, with this machine's sgemm rate and memory bandwidth beside them. Close other programs first. The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.command import add_run_options, choices, measure, run_settings, say_if_busy
from benchmarks.record import ANYWHERE
from benchmarks.timing import OnCase, document_head, keep_freed_memory
from export.targets import find_target, require_toolchains
from lorarar.base.names import BASES_HELP, DEFAULT_BASE, base_files, load_layout
from lorarar.command_line import Parser, main_of, run_command
from lorarar.console import console, print_table
from lorarar.errors import InputError
from lorarar.settings import check_at_least

MAX_RANK = 512


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar bench merge", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--rank", default="64", metavar="R,R…", help="ranks of both LoRAs (default %(default)s)")
    add("--target", default=",".join(ANYWHERE), metavar="T,T…", help="artifacts to run, or none (default %(default)s)")
    add(
        "--ziplora-steps",
        type=int,
        default=1,
        metavar="N",
        help="measured steps of ZipLoRA's 100, after one that doesn't count (default %(default)s); 0: none of them",
    )
    add_run_options(made)
    add("--keep-memory", action="store_true", help="keep freed memory in the process: no page faults in any case")
    return made


def run(args: argparse.Namespace) -> int:
    """Measure every rank, print its tables, and give the document out."""
    ranks = parse_ranks(args.rank)
    targets = () if args.target == "none" else choices("target", args.target, ANYWHERE)
    check_at_least(0, ziplora_steps=args.ziplora_steps)
    for target in targets:
        require_toolchains(find_target(target))
    settings = run_settings(args, *base_files(args.base))
    import torch

    from benchmarks.merge_times import measure_rank  # here, since `--help` needs no PyTorch

    kept = args.keep_memory and keep_freed_memory()
    layout = load_layout(args.base)

    def measure_ranks(say: OnCase) -> dict[str, Any]:
        results = [measure_rank(layout, args.base, rank, targets, args.ziplora_steps, settings, say) for rank in ranks]
        head = document_head("merge", layout.base, settings)
        return {**head, "freed_memory_kept": kept, "torch": torch.__version__, "results": results}

    return measure(measure_ranks, _print, args.out)


def parse_ranks(text: str) -> list[int]:
    """Read `16,64` as [16, 64]; raises InputError for anything else."""
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        ranks = []
    if not ranks or not all(1 <= rank <= MAX_RANK for rank in ranks):
        raise InputError(f"`rank` {text!r} is not a list of ranks from 1 to {MAX_RANK}, for example 16,64,128")
    return ranks


def _print(document: dict[str, Any]) -> None:
    for result in document["results"]:
        _print_rank(result, document["base"], document["freed_memory_kept"])


def _print_rank(result: dict[str, Any], base: str, kept: bool) -> None:
    machine, files = result["machine"], result["files"]
    rows = []
    for case in result["cases"]:
        rate = (f"{case['gflops']:.0f}", f"{case['share_of_sgemm']:.0%} of sgemm") if "gflops" in case else ("", "")
        if "share_of_bandwidth" in case:
            rate = (rate[0], f"{case['share_of_bandwidth']:.0%} of memory read")
        rows.append((case["name"], f"{case['median_s'] * 1e3:.1f} ms", f"{case['best_s'] * 1e3:.1f} ms", *rate))
    rows.append(("files: merge", f"{files['merge_s'] * 1e3:.0f} ms", "", "", ""))
    rows.append(("files: read and write the bytes", f"{files['copy_s'] * 1e3:.0f} ms", "", "", ""))
    columns = ("what", "median", "best", "GFLOP/s", "share of this machine's limit")
    print_table(columns, rows, f"{base}, rank {result['rank']}", left=("what",))
    say = console().print
    say("freed memory kept in the process" if kept else "memory from the C library, as usual")
    say(f"sgemm {machine['sgemm_gflops']:.0f} GFLOP/s, memory read {machine['read_gb_per_s']:.0f} GB/s")
    if result["footprint"]:
        _print_table_2(result["footprint"])
    checks = []
    for goal in result["goals"]:
        limit = f"{'≥' if goal['at_least'] else '≤'} {goal['limit']:g}{goal['unit']}"
        verdict = "pass" if goal["passed"] else "FAIL"
        checks.append((goal["what"], f"{goal['value']:.2f}{goal['unit']}", limit, verdict))
    print_table(("goal", "this run", "limit", ""), checks, left=("goal", ""))
    say_if_busy(result["steadiness"])


def _print_table_2(found: dict[str, Any]) -> None:
    """Print the paper's Table 2 on this machine, with the paper's own figures beside it."""

    def line(what: str, key: str, text: Callable[[float], str]) -> tuple[str, ...]:
        ours, papers = ([of[f"{who}_{key}"] for who in ("ziplora", "learned")] for of in (found, found["paper"]))
        return (what, *map(text, ours), f"{ours[0] / ours[1]:.3g}×", " : ".join(map(text, papers)))

    rows = [
        line("time for coefficients", "s", lambda value: f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.3g} ms"),
        line("parameters", "parameters", lambda value: f"{value / 1e6:.3g}M"),
    ]
    title = f"one pair (Table 2); of ZipLoRA's {found['steps']} steps {found['measured_steps']} were measured"
    columns = ("", "ZipLoRA", "LoRA.rar, factored", "ratio", f"the paper, {found['paper']['device']}")
    print_table(columns, rows, title, left=("",))


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
