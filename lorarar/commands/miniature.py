"""Make the shipped miniature again from nothing: `lorarar miniature build`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lorarar.base.names import MINIATURE_FOLDER
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import console, progress
from lorarar.errors import InputError
from lorarar.settings import check_seed
from lorarar.toolchains import missing_toolchain
from miniature.build import STAGES, build
from miniature.progress import Report

LOGGED_S = 60.0  # a log without a terminal gets a line as often as this

_EPILOG = """\
stages, in order; each goes on where a stopped run left it, and is skipped once it is done:
{}

Everything grows in WORK/miniature. The output folder stays as it is until all of it is there.
"""


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        "lorarar miniature",
        description="Make the miniature from nothing: world, base, judge, LoRAs and hypernetwork.",
    )
    commands = made.add_subparsers(dest="command", metavar="build", required=True)
    stages = "\n".join(f"  {name:<12} {text}" for name, (text, _) in STAGES.items())
    add = commands.add_parser("build", help="make it", epilog=_EPILOG.format(stages)).add_argument
    add("--work", type=Path, default=Path("build/miniature"), metavar="WORK", help="drawings and states of training")
    out = "replaced at the end (default: the shipped)"
    add("-o", "--out", type=Path, default=MINIATURE_FOLDER, metavar="DIR", help=out)
    add("--until", choices=STAGES, default="publish", help="the last stage to run (default publish)")
    start = "take the VAE, the text encoders and the UNet of this pipeline, and train its UNet further"
    add("--start", type=Path, metavar="DIR", help=start)
    add("--rounds", type=int, metavar="N", help="of the UNet's further training (default 2)")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything (default 0, the shipped miniature's)")
    add("--eager", action="store_true", help="do not compile the base's training, for a machine without a C++ compiler")
    return made


def run(args: argparse.Namespace) -> int:
    """Build; raises InputError for anything the user can put right."""
    check_seed(args.seed)
    if args.rounds is not None and args.rounds < 0:
        raise InputError(f"--rounds is {args.rounds}; give 0 or more")
    if args.start is not None and not (args.start / "model_index.json").is_file():
        raise InputError(f"{args.start}: no pipeline in diffusers' layout; give a folder with a model_index.json")
    for folder in (args.work, args.out):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: this is a file; give a folder")
    try:
        # Not needed for --help: it imports torch.
        from miniature.stages import BuildPlan, check_output
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    check_output(args.out)
    names = list(STAGES)
    with _shown() as report:
        plan = BuildPlan(args.work, args.out, args.seed, start=args.start, compiled=not args.eager, report=report)
        if args.rounds is not None:
            plan = replace(plan, rounds=args.rounds)
        build(plan, names[: names.index(args.until) + 1], _print_made)
    return EXIT_OK


def _print_made(stage: str, made: Path, seconds: float) -> None:
    console().print(f"{stage:<12} {made}  {seconds / 60:.1f} min")


@contextmanager
def _shown() -> Iterator[Report]:
    """Show a progress bar; yields what to report to. Without a terminal, print a line now and then."""
    said = time.monotonic()
    with progress("") as update:

        def report(text: str, done: int, total: int) -> None:
            nonlocal said
            update(done, total, text=text)
            if not console(stderr=True).is_terminal and time.monotonic() - said > LOGGED_S:
                said = time.monotonic()
                print(f"{text}: {done} of {total}", flush=True)

        yield report


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
