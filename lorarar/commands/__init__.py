"""The command line `lorarar`: a module a subcommand, imported only when it is asked for. Nothing imports a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from lorarar import __version__
from lorarar.command_line import EXIT_OK, run_command
from lorarar.errors import InputError

COMMANDS: dict[str, tuple[str, str, str]] = {
    "merge": (
        "lorarar.commands.merge",
        "use",
        "two LoRA files → one, by any method, or through a bundle as a phone does",
    ),
    "convert": ("lorarar.commands.convert", "use", "LoHa, LoKr, DoRA, differences or too large a rank → a plain LoRA"),
    "generate": ("lorarar.commands.generate", "use", "text and two LoRAs → an image, from a bundle alone"),
    "sheet": ("lorarar.commands.sheet", "use", "the same image through several bundles: a picture and a table"),
    "export": ("lorarar.commands.export", "ship", "hypernet, unet or pipeline → a checked bundle for a target"),
    "check": ("lorarar.commands.check", "ship", "compare every part of a bundle with PyTorch and diffusers"),
    "overflow": ("lorarar.commands.overflow", "ship", "where a Core ML program comes near fp16's largest number"),
    "lint": ("lorarar.commands.lint", "ship", "what of a Core ML program would leave the Neural Engine, and why"),
    "bench": ("lorarar.commands.bench", "measure", "time merges, UNets, pipelines and components, here and on phones"),
    "report": ("benchmarks.report", "measure", "benchmark records as one HTML page and Markdown"),
    "train": ("lorarar.commands.train", "train", "the hypernetwork, on the LoRAs of a dataset"),
    "means": (
        "lorarar.commands.means",
        "train",
        "a hypernetwork → its mean coefficients, a checkpoint without a network",
    ),
    "train-lora": ("lorarar.commands.train_lora", "train", "a LoRA from a few images, or every LoRA of a dataset"),
    "evaluate": ("lorarar.commands.evaluate", "train", "MARS² and the paper's tables and grids, for any methods"),
    "study": ("lorarar.commands.study", "train", "the paper's human study as a web app"),
    "miniature": ("lorarar.commands.miniature", "make", "make a miniature from nothing, by the shipped one's stages"),
    "synthetic": ("lorarar.commands.synthetic", "make", "LoRAs of random numbers in a base's full size"),
}
"""Subcommand → its module, the heading that it stands under, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return its exit code; raises InputError for anything the user can put right."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        print(_contents())
        return EXIT_OK
    if given[0] == "--version":
        print(__version__)
        return EXIT_OK
    if given[0] not in COMMANDS:
        raise InputError(f"unknown command {given[0]!r}; valid are {', '.join(COMMANDS)}")
    code: int = import_module(COMMANDS[given[0]][0]).main(given[1:])
    return code


def run() -> NoReturn:
    """Run the console script `lorarar`."""
    run_command(main)


def _contents() -> str:
    """Return the table of contents: every subcommand under its heading."""
    lines = ["usage: lorarar COMMAND …", "", "Merge a content and a style LoRA, on a phone.", ""]
    heading = ""
    for name, (_, under, text) in COMMANDS.items():
        lines.append(f"{under if under != heading else '':<9}{name:<12}{text}")
        heading = under
    return "\n".join([*lines, "", "lorarar COMMAND --help tells a command's options; lorarar --version the version."])
