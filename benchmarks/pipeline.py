"""Measure text to image, stage by stage, through several bundles in one run: stacking, merging, text, loading, steps,
decoding.

Every image is made as a phone makes it: one network in memory at a time, loaded anew. The bundles take turns, and this
machine's sgemm with them. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.command import add_run_options, given_pair, measure, run_settings, say_if_busy
from benchmarks.pipeline_times import STAGES, measure_pipelines, open_bundles
from lorarar.command_line import Parser, main_of, run_command
from lorarar.console import console, print_table
from lorarar.files import whole
from runtime_py.guidance import guidance_in_words
from runtime_py.pipeline import Pipeline

PROMPT = "a sks dog in watercolor painting style"


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar bench pipeline", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("bundles", nargs="+", type=Path, metavar="BUNDLE", help="a bundle of `lorarar export pipeline`")
    add("--content", type=Path, metavar="LORA", help="merge this content LoRA with --style (default: no adapter)")
    add("--style", type=Path, metavar="LORA", help="the style LoRA, beside --content")
    add("--prompt", default=PROMPT, help="what to draw (default %(default)s)")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the bundle's)")
    add("--guidance", type=float, metavar="G", help="1 is off (default: the bundle's)")
    add_run_options(made)
    return made


def run(args: argparse.Namespace) -> int:
    """Draw through every bundle in turn, print the table, and give the document out."""
    loras = given_pair(args) or ()
    settings = run_settings(args, *whole(*args.bundles), args.content, args.style)
    bundles = open_bundles(args.bundles)
    requests = {
        name: Pipeline(bundle).request(args.prompt, steps=args.steps, guidance=args.guidance)
        for name, bundle in bundles.items()
    }
    return measure(lambda say: measure_pipelines(bundles, requests, loras, settings, say), _print, args.out)


def _print(document: dict[str, Any]) -> None:
    rows = []
    for case in document["cases"]:
        stages = [f"{case['stages_s'][stage] * 1e3:.0f} ms" for stage in STAGES]
        size = f"{case['bytes'] / 1e6:.0f}"
        rows.append((case["name"], f"{case['median_s']:.2f} s", *stages, f"{case['step_s'] * 1e3:.1f} ms", size))
    print_table(("bundle", "image", *STAGES, "one step", "MB"), rows, "text to image, medians", left=("bundle",))
    for case in document["cases"]:
        guided = guidance_in_words(case["guidance"], case["guidance_rescale"])
        console().print(f"{case['name']}: {case['steps']} steps, {guided}")
    say_if_busy(document["steadiness"])


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
