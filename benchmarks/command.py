"""What the benchmark commands share: options of every run, and how its JSON document is given out. No toolchain."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import STEADY, OnCase, RunSettings
from lorarar.command_line import EXIT_OK, Parser, add_settings, given_settings
from lorarar.console import console, progress
from lorarar.errors import InputError
from lorarar.files import atomic_file, check_output
from lorarar.lora import LoRA, read_lora
from lorarar.settings import check_choice, words
from lorarar.toolchains import require_torch

Document = dict[str, Any]


def add_run_options(parser: Parser) -> None:
    """Add the options of RunSettings, and where the document goes."""
    add_settings(parser, RunSettings())
    add_out(parser, "write the JSON document here as well")


def add_out(parser: Parser, help: str, required: bool = False) -> None:
    """Add the option of a command's main output."""
    parser.add_argument("-o", "--out", type=Path, required=required, metavar="FILE", help=help)


def given_pair(args: argparse.Namespace) -> tuple[LoRA, LoRA] | None:
    """Read the LoRAs of `content` and `style`; None without them. Raises InputError for one alone."""
    if (args.content is None) != (args.style is None):
        raise InputError("`content` and `style` belong together; give both, or neither")
    return None if args.content is None else (read_lora(args.content), read_lora(args.style))


def choices(name: str, text: str, valid: tuple[str, ...]) -> tuple[str, ...]:
    """Split an option's `a,b` into its words, each once. Raises InputError for one that is not valid, and for none."""
    chosen = tuple(dict.fromkeys(words(text)))
    for word in chosen:
        check_choice(valid, **{name: word})
    if not chosen:
        raise InputError(f"`{name}` is empty; give some of {', '.join(valid)}")
    return chosen


def run_settings(args: argparse.Namespace, *inputs: Path | None) -> RunSettings:
    """Return the settings of a run, and give PyTorch its threads.

    Raises InputError for options of `add_run_options` that can't be meant, such as an output that would overwrite one
    of the inputs, and where PyTorch is not installed.
    """
    settings = given_settings(args, RunSettings())
    if args.out is not None:
        check_output(args.out, *filter(None, inputs))
    require_torch()
    import torch

    torch.set_num_threads(settings.threads)
    return settings


def say_if_busy(steadiness: float) -> None:
    """Print a warning where the machine had other work."""
    if steadiness < STEADY:
        console().print(
            f"the machine was busy (sgemm kept {steadiness:.0%} of its best rate): close programs, run again",
            style="yellow",
        )


def measure(run: Callable[[OnCase], Document], show: Callable[[Document], None], out: Path | None) -> int:
    """Run under a bar, write the document that comes of it to `out`, show it, and print it as the last line."""
    with progress("") as update:
        document = run(lambda text, done, total: update(done, total, text=text))
    text = json.dumps(document)
    if out is not None:  # before it is shown, which a closed pipe ends
        with atomic_file(out) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    show(document)
    print(text)
    return EXIT_OK
