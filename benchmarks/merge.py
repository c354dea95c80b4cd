"""Measure the merge: dense, factored, prepared, whole mergers, whole files, and ZipLoRA's optimisation (Table 2).

    python -m benchmarks.merge [--base koala-700m|koala-1b|sdxl|FOLDER] [--rank 16,64,128] [--json FILE]

Steps of ZipLoRA's optimisation in a process of its own; then PyTorch, ONNX Runtime and ExecuTorch in one interleaved
run with this machine's sgemm rate and memory bandwidth beside it. Close other programs first. The last line of stdout
is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import (
    REST,
    SGEMM_SIZE,
    add_run_options,
    check_run_options,
    give_out,
    head,
    machine_record,
    say_if_busy,
)
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain

if TYPE_CHECKING:
    from rich.table import Table

    from lorarar.layout import Layout

TARGETS = ("onnx", "executorch")
MAX_RANK = 512


def parse_ranks(text: str) -> list[int]:
    """`16,64` → [16, 64]; InputError for anything else."""
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        ranks = []
    if not ranks or not all(1 <= rank <= MAX_RANK for rank in ranks):
        raise InputError(f"--rank {text!r} is not a list of ranks from 1 to {MAX_RANK}, for example 16,64,128")
    return ranks


def parse_targets(text: str) -> list[str]:
    """`onnx,executorch` → both; `none` → no artifacts."""
    targets = [] if text == "none" else text.split(",")
    for target in targets:
        if target not in TARGETS:
            raise InputError(f"unknown target {target!r}; valid are {', '.join(TARGETS)} or none")
    return targets


def measure_rank(layout: Layout, base: str, rank: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything about one rank, as JSON."""
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks import merge_cases as cases
    from benchmarks.merge_files import measure_files
    from benchmarks.merge_work import Work, case_record, footprint, goals
    from benchmarks.timing import interleave
    from lorarar.hypernet.network import HypernetConfig, Hypernetwork

    widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
    hypernet = Hypernetwork.untrained(HypernetConfig(widths=widths)).requires_grad_(False)
    with Progress(console=Console(stderr=True), transient=True) as progress, torch.inference_mode():
        task = progress.add_task(f"rank {rank}: ZipLoRA", total=None)
        zipped = _ziplora(base, rank, options)  # first: it needs the memory
        progress.update(task, description=f"rank {rank}: machine")
        inputs = cases.random_inputs(layout, rank)
        machine = cases.measure_machine()
        todo = cases.pytorch_cases(hypernet, layout, inputs) | {"sgemm": cases.sgemm_case(SGEMM_SIZE)}
        for target in options.targets:
            progress.update(task, description=f"rank {rank}: exporting to {target}")
            given = ["--target", target, "--base", base, "--untrained", "--rank", str(rank)]
            bundle = cases.export("export.hypernet", given, folder / f"{target}-{rank}")
            todo[target] = cases.artifact_case(target, bundle, inputs, options.threads)
        progress.update(task, total=len(todo) * (options.rounds + 1))

        def on_run(name: str) -> None:
            progress.update(task, advance=1, description=f"rank {rank}: {name}")

        samples = interleave(todo, options.rounds, on_run=on_run, rest=REST)
        # Their gigabytes would be in the way of the file cache.
        del inputs, todo
        progress.update(task, description=f"rank {rank}: files")
        files, file_bytes = measure_files(layout, hypernet, rank, folder, options.rounds)
    table = footprint(samples, zipped, sum(p.numel() for p in hypernet.parameters())) if zipped else None
    work = Work.of(layout, rank, hypernet.config.hidden)
    return {
        "rank": rank,
        **machine_record(machine, samples["sgemm"]),
        "cases": [case_record(name, case, work, machine) for name, case in samples.items()],
        "files": {
            "merge_s": files["merge"].median,
            "copy_s": files["copy"].median,
            "ratio": files["merge"].median / files["copy"].median,
            "bytes": file_bytes,
        },
        "footprint": table,
        "goals": [goal.to_json() for goal in goals(base, rank, samples, work, machine)],
    }


def _ziplora(base: str, rank: int, options: argparse.Namespace) -> dict[str, Any] | None:
    from benchmarks.merge_cases import run_module

    if not options.ziplora_steps:
        return None
    given = ["--base", base, "--rank", rank, "--steps", options.ziplora_steps, "--threads", options.threads]
    said = run_module("benchmarks.merge_ziplora", *map(str, given))
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    try:
        import torch
    except ImportError:
        raise missing_toolchain("torch", "train") from None
    from benchmarks.timing import keep_freed_memory
    from lorarar.base.names import load_layout

    kept = options.keep_memory and keep_freed_memory()
    torch.set_num_threads(options.threads)
    layout = load_layout(options.base)
    with tempfile.TemporaryDirectory() as folder:
        results = [measure_rank(layout, options.base, rank, options, Path(folder)) for rank in options.ranks]
    document = {
        **head("merge", layout.base, options),
        "freed_memory_kept": kept,
        "torch": torch.__version__,
        "results": results,
    }
    for result in results:
        _print(layout.base, result, kept)
    give_out(document, options)
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from lorarar.base.names import BASES_HELP, DEFAULT_BASE

    parser = Parser(prog="python -m benchmarks.merge", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", default=DEFAULT_BASE, help=BASES_HELP)
    parser.add_argument("--rank", default="64", metavar="R,R…", help="ranks of both LoRAs (default %(default)s)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="artifacts to run, or none (default %(default)s)")
    parser.add_argument(
        "--ziplora-steps",
        type=int,
        default=1,
        metavar="N",
        help="measured steps of its 100 (default %(default)s)",
    )
    add_run_options(parser)
    parser.add_argument(
        "--keep-memory", action="store_true", help="keep freed memory in the process: no page faults in any case"
    )
    options = parser.parse_args(argv)
    check_run_options(options)
    if options.ziplora_steps < 0:
        raise InputError(f"--ziplora-steps {options.ziplora_steps}: give 0 or more")
    options.ranks, options.targets = parse_ranks(options.rank), parse_targets(options.targets)
    return options


def _print(base: str, result: dict[str, Any], kept: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    machine, files = result["machine"], result["files"]
    table = Table(title=f"{base}, rank {result['rank']}", title_justify="left")
    for column in ("what", "median", "best", "GFLOP/s", "share of this machine's limit"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for case in result["cases"]:
        rate = (f"{case['gflops']:.0f}", f"{case['share_of_sgemm']:.0%} of sgemm") if "gflops" in case else ("", "")
        if "share_of_bandwidth" in case:
            rate = (rate[0], f"{case['share_of_bandwidth']:.0%} of memory read")
        table.add_row(case["name"], f"{case['median_s'] * 1e3:.1f} ms", f"{case['best_s'] * 1e3:.1f} ms", *rate)
    table.add_row("files: merge", f"{files['merge_s'] * 1e3:.0f} ms", "", "", "")
    table.add_row("files: read and write the bytes", f"{files['copy_s'] * 1e3:.0f} ms", "", "", "")
    checks = Table("goal", "this run", "limit", "")
    for goal in result["goals"]:
        sign = "≥" if goal["at_least"] else "≤"
        verdict = "[green]pass[/]" if goal["passed"] else "[red]FAIL[/]"
        limit = f"{sign} {goal['limit']:g}{goal['unit']}"
        checks.add_row(goal["what"], f"{goal['value']:.2f}{goal['unit']}", limit, verdict)
    console = Console(file=sys.stdout)
    console.print(table)
    console.print("freed memory kept in the process" if kept else "memory from the C library, as usual")
    console.print(f"sgemm {machine['sgemm_gflops']:.0f} GFLOP/s, memory read {machine['read_gb_per_s']:.0f} GB/s")
    if result["footprint"]:
        console.print(_table_2(result["footprint"]))
    console.print(checks)
    say_if_busy(console, result["steadiness"])


def _table_2(found: dict[str, Any]) -> Table:
    """The paper's Table 2 on this machine, its own figures beside."""
    from rich.table import Table

    title = f"one pair (Table 2); of ZipLoRA's {found['steps']} steps {found['measured_steps']} were measured"
    table = Table(title=title, title_justify="left")
    for column in ("", "ZipLoRA", "LoRA.rar, factored", "ratio", f"the paper, {found['paper']['device']}"):
        table.add_column(column, justify="left" if not column else "right")

    def add(what: str, key: str, text: Callable[[float], str]) -> None:
        ours, papers = ([of[f"{who}_{key}"] for who in ("ziplora", "learned")] for of in (found, found["paper"]))
        table.add_row(what, *map(text, ours), f"{ours[0] / ours[1]:.3g}×", " : ".join(map(text, papers)))

    add("time for coefficients", "s", lambda value: f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.3g} ms")
    add("parameters", "parameters", lambda value: f"{value / 1e6:.3g}M")
    return table


if __name__ == "__main__":
    run_command(main)
