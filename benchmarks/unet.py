"""Measure a step of the UNet: with adapter inputs, and with the LoRA fused into the weights instead, in one run.

    python -m benchmarks.unet [--base B] [--untrained] [--rank R] [--targets onnx,executorch] [--precision P,P…]
                              [--resolution PIXELS] [--batch 1|2] [--bundles DIR] [--json FILE]

Exports what is not in `--bundles` yet, with the command that users have, then runs all cases in turn, this machine's
sgemm among them. Close other programs first. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import (
    REST,
    SGEMM_SIZE,
    add_run_options,
    case_times,
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
    from benchmarks.timing import Samples
    from runtime_py.bundle import Bundle

TARGETS = ("onnx", "executorch")  # Core ML's programs need an Apple system to be timed
LIMIT = 10.0  # per cent that adapter inputs may cost through ONNX Runtime
KINDS = ("adapter", "fused")


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    try:
        import torch
    except ImportError:
        raise missing_toolchain("torch", "train") from None
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.bundles or Path(temporary)
        document = measure(options, folder)
    _print(document)
    give_out(document, options)
    return EXIT_OK


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export what is missing, run every case in turn; the document."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.merge_cases import measure_machine, sgemm_case
    from benchmarks.timing import interleave

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("machine", total=None)
        machine = measure_machine()
        cases: dict[str, Callable[[], object]] = {"sgemm": sgemm_case(SGEMM_SIZE)}
        bundles = {}
        for target, precision, kind in options.cases:
            name = f"{target} {precision} {kind}"
            progress.update(task, description=f"exporting {name}")
            bundles[name] = _bundle(options, target, precision, kind, folder)
        for name, bundle in bundles.items():
            progress.update(task, description=f"loading {name}")
            cases[name] = _case(bundle, options.threads)
        progress.update(task, total=len(cases) * (options.rounds + 1))

        def on_run(name: str) -> None:
            progress.update(task, advance=1, description=name)

        samples = interleave(cases, options.rounds, on_run=on_run, rest=REST)
    first = next(iter(bundles.values()))
    sample = next(spec for spec in first.component("unet").inputs if spec.name == "sample")
    return {
        **head("unet", first.manifest["base"], options),
        "merged_rank": 2 * first.rank,
        "sample": list(sample.shape),
        **machine_record(machine, samples["sgemm"]),
        "cases": [_record(name, samples[name], bundles[name]) for name in bundles],
        "costs": _costs(samples),
    }


def _bundle(options: argparse.Namespace, target: str, precision: str, kind: str, folder: Path) -> Bundle:
    """The UNet of one case; the fused one has a random LoRA of the same rank added into its weights."""
    from benchmarks.merge_cases import export, run_module
    from runtime_py.bundle import Bundle

    out = folder / f"{kind}-{target}-{precision}"
    if (out / "manifest.json").is_file():
        return Bundle.open(out)
    given = ["--target", target, "--precision", precision, "--base", options.base, "--batch", str(options.batch)]
    given += ["--untrained"] if options.untrained else []
    for name in ("rank", "resolution"):
        if getattr(options, name) is not None:
            given += [f"--{name}", str(getattr(options, name))]
    if kind == "fused":
        lora = folder / "random.safetensors"
        rank = ["--rank", str(options.rank)] if options.rank is not None else []
        run_module("lorarar.commands.synthetic", "--base", options.base, *rank, "--strength", "0.01", "-o", str(lora))
        given += ["--fused", str(lora)]
    return Bundle.open(export("export.unet", given, out))


def _case(bundle: Bundle, threads: int) -> Callable[[], object]:
    """One step on golden inputs that are in memory already."""
    from runtime_py.backends import open_runner
    from runtime_py.golden import golden_inputs

    inputs, session = golden_inputs(bundle.component("unet")), open_runner(bundle, "unet", threads)
    return lambda: session.run(inputs)


def _record(name: str, samples: Samples, bundle: Bundle) -> dict[str, Any]:
    entry = bundle.manifest["components"]["unet"]
    return {
        **case_times(name, samples),
        "bytes": entry["bytes"],
        "sha256": entry["sha256"],
        "psnr_db": entry["parity"]["psnr_db"],
    }


def _costs(samples: Mapping[str, Samples]) -> list[dict[str, Any]]:
    """What adapter inputs cost in each target and precision, from medians; the project's goal is ONNX Runtime's."""
    found = []
    for name, adapter in samples.items():
        case, _, kind = name.rpartition(" ")
        if kind == KINDS[0]:
            cost = (adapter.median / samples[f"{case} {KINDS[1]}"].median - 1) * 100
            limited = case.startswith("onnx")
            entry: dict[str, Any] = {"case": case, "cost_percent": cost}
            found.append(entry | ({"limit_percent": LIMIT, "passed": cost <= LIMIT} if limited else {}))
    return found


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from export.targets import find_target
    from lorarar.base.names import BASES_HELP, DEFAULT_BASE
    from lorarar.training.settings import defaults_text

    parser = Parser(prog="python -m benchmarks.unet", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    add("--untrained", action="store_true", help="a named base with seeded random weights")
    add("--rank", type=int, help=f"rank of one LoRA; the adapter's is twice that {defaults_text('rank')}")
    add("--targets", default=",".join(TARGETS), help="what to run (default %(default)s)")
    add("--precision", default="fp32", metavar="P,P…", help="precisions of the UNet (default %(default)s)")
    add("--resolution", type=int, metavar="PIXELS", help="side of the image (default: the base's own)")
    add("--batch", type=int, choices=(1, 2), default=1, help="2: with guidance (default 1)")
    add("--bundles", type=Path, metavar="DIR", help="keep the exported UNets there, and use those that are there")
    add_run_options(parser)
    options = parser.parse_args(argv)
    check_run_options(options)
    targets, precisions = options.targets.split(","), options.precision.split(",")
    for target in targets:
        if target not in TARGETS:
            raise InputError(f"unknown target {target!r}; valid are {', '.join(TARGETS)}")
        for precision in precisions:
            find_target(target).require("unet", precision)
    options.cases = [(target, name, kind) for target in targets for name in precisions for kind in KINDS]
    return options


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    size = "×".join(str(size) for size in document["sample"])
    table = Table(title=f"{document['base']}, one step, latents {size}", title_justify="left")
    for column in ("UNet", "median", "best", "MB", "PSNR"):
        table.add_column(column, justify="left" if column == "UNet" else "right")
    for case in document["cases"]:
        times = (f"{case[key] * 1e3:.1f} ms" for key in ("median_s", "best_s"))
        table.add_row(case["name"], *times, f"{case['bytes'] / 1e6:.0f}", f"{case['psnr_db']:.1f} dB")
    console = Console(file=sys.stdout)
    console.print(table)
    for cost in document["costs"]:
        verdict = {None: "", True: ": [green]pass[/]", False: ": [red]FAIL[/]"}[cost.get("passed")]
        limit = f" (≤ {cost['limit_percent']:g} %)" if "limit_percent" in cost else ""
        rank = document["merged_rank"]
        console.print(f"{cost['case']}: adapters of rank {rank} cost {cost['cost_percent']:+.1f} %{limit}{verdict}")
    say_if_busy(console, document["steadiness"])


if __name__ == "__main__":
    run_command(main)
