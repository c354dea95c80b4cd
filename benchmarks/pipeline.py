"""Measure text to image, stage by stage, through several bundles in one run: merge, text, loading, steps, decoding.

    python -m benchmarks.pipeline BUNDLE… [--content LORA --style LORA] [--prompt P] [--steps N] [--json FILE]

Every image is made as a phone makes it: one network in memory at a time, loaded anew. The bundles take turns, and this
machine's sgemm with them. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
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
from lorarar.command_line import EXIT_OK, Parser, Stopwatch, run_command
from lorarar.errors import InputError
from lorarar.lora import LoRA, read_lora
from lorarar.toolchains import missing_toolchain

if TYPE_CHECKING:
    from benchmarks.timing import Samples
    from runtime_py.bundle import Bundle
    from runtime_py.pipeline import Request

PROMPT = "a sks dog in watercolor painting style"
STAGES = ("merge", "text", "load the UNet", "steps", "decode")


def main(argv: Sequence[str] | None = None) -> int:
    options = _parse(argv)
    try:
        import torch
    except ImportError:
        raise missing_toolchain("torch", "train") from None
    torch.set_num_threads(options.threads)
    bundles = open_bundles(options.bundles)
    loras = (read_lora(options.content), read_lora(options.style)) if options.content else None
    document = measure(bundles, loras, options)
    _print(document)
    give_out(document, options)
    return EXIT_OK


def open_bundles(paths: Sequence[Path]) -> dict[str, Bundle]:
    """By what names them in the table. InputError for one that can't draw, or can't be timed here."""
    from runtime_py.bundle import Bundle
    from runtime_py.pipeline import Pipeline

    found: dict[str, Bundle] = {}
    for path in paths:
        bundle = Bundle.open(path)
        Pipeline(bundle)  # says what a bundle without a pipeline is missing
        if bundle.manifest["target"] == "coreml" and platform.system() != "Darwin":
            raise InputError(f"{path}: a Core ML bundle is timed on Apple systems only; leave it out")
        name = " ".join(bundle.manifest[key] for key in ("base", "target", "precision"))
        if name in found:
            raise InputError(f"{path} and {found[name].path} are both {name}; give one of them")
        found[name] = bundle
    return found


def measure(
    bundles: Mapping[str, Bundle], loras: tuple[LoRA, LoRA] | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Draw in turn; the document."""
    from rich.console import Console
    from rich.progress import Progress

    from benchmarks.merge_cases import measure_machine, sgemm_case
    from benchmarks.timing import interleave
    from runtime_py.pipeline import Pipeline

    requests = {
        name: Pipeline(bundle).request(options.prompt, steps=options.steps, guidance=options.guidance)
        for name, bundle in bundles.items()
    }
    watches: dict[str, list[Stopwatch]] = {name: [] for name in bundles}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("machine", total=(len(bundles) + 1) * (options.rounds + 1))
        machine = measure_machine()
        cases: dict[str, Callable[[], object]] = {"sgemm": sgemm_case(SGEMM_SIZE)}
        for name, bundle in bundles.items():
            cases[name] = _case(bundle, loras, requests[name], options.threads, watches[name])

        def on_run(name: str) -> None:
            progress.update(task, advance=1, description=name)

        samples = interleave(cases, options.rounds, on_run=on_run, rest=REST)
    first = next(iter(bundles.values()))
    return {
        **head("pipeline", first.manifest["base"], options),
        "prompt": options.prompt,
        "merged_pair": loras is not None,
        **machine_record(machine, samples["sgemm"]),
        # The first image of each is the warm-up, which interleave doesn't time.
        "cases": [_record(name, samples[name], watches[name][1:], requests[name], bundles[name]) for name in bundles],
    }


def _case(
    bundle: Bundle,
    loras: tuple[LoRA, LoRA] | None,
    request: Request,
    threads: int,
    watches: list[Stopwatch],
) -> Callable[[], object]:
    """One image; where its time went is added to `watches`."""
    from runtime_py.merge import merged_lora
    from runtime_py.pipeline import Pipeline

    def draw() -> object:
        pipeline, watch = Pipeline(bundle, threads), Stopwatch()
        with watch.stage("merge"):
            adapter = pipeline.adapter(merged_lora(bundle, loras or ()))
        drawn = pipeline.draw(request, adapter)
        watch.seconds.update(drawn.seconds)
        watches.append(watch)
        return drawn

    return draw


def _record(
    name: str, samples: Samples, watches: Sequence[Stopwatch], request: Request, bundle: Bundle
) -> dict[str, Any]:
    components = bundle.manifest["components"]
    stages = {stage: median(watch.seconds[stage] for watch in watches) for stage in STAGES}
    return {
        **case_times(name, samples),
        "steps": request.steps,
        "guidance": request.guidance,
        "stages_s": stages,
        "step_s": stages["steps"] / request.steps,
        "bytes": sum(entry["bytes"] for entry in components.values()),
        "image_psnr_db": bundle.manifest["pipeline"]["golden"].get("parity", {}).get("psnr_db"),
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m benchmarks.pipeline", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("bundles", nargs="+", type=Path, metavar="BUNDLE", help="bundles of export.pipeline")
    add("--content", type=Path, metavar="LORA", help="merge this content LoRA with --style (default: no adapter)")
    add("--style", type=Path, metavar="LORA")
    add("--prompt", default=PROMPT, help="default %(default)s")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the bundle's)")
    add("--guidance", type=float, metavar="G", help="1 is off (default: the bundle's)")
    add_run_options(parser)
    options = parser.parse_args(argv)
    check_run_options(options)
    if (options.content is None) != (options.style is None):
        raise InputError("--content and --style belong together; give both, or neither")
    return options


def _print(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="text to image, medians", title_justify="left")
    for column in ("bundle", "image", *STAGES, "one step", "MB"):
        table.add_column(column, justify="left" if column == "bundle" else "right")
    for case in document["cases"]:
        stages = [f"{case['stages_s'][stage] * 1e3:.0f} ms" for stage in STAGES]
        size = f"{case['bytes'] / 1e6:.0f}"
        table.add_row(case["name"], f"{case['median_s']:.2f} s", *stages, f"{case['step_s'] * 1e3:.1f} ms", size)
    console = Console(file=sys.stdout)
    console.print(table)
    for case in document["cases"]:
        console.print(f"{case['name']}: {case['steps']} steps, guidance {case['guidance']:g}", highlight=False)
    say_if_busy(console, document["steadiness"])


if __name__ == "__main__":
    run_command(main)
