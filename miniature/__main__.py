"""The command `lorarar miniature build`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lorarar.base.names import MINIATURE_FOLDER
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain

STAGES = {
    "population": "draw the captioned pictures that the base is trained on",
    "autoencoder": "train the VAE",
    "base": "train the UNet and both text encoders",
    "pipeline": "write the pipeline in half precision, and a grid of its samples",
    "judge": "train the verifier that stands in for a language model",
    "references": "draw the reference images of the held-out subjects and styles",
    "loras": "train a LoRA for each of them",
    "hypernet": "train the hypernetwork",
    "card": "write the model card",
    "publish": "put all of it in place of the output folder",
}

_EPILOG = """\
stages, in order; each goes on where a stopped run left it, and is skipped once it is done:
{}

Everything grows in WORK/miniature. The output folder stays as it is until all of it is there.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; raises InputError for anything the user can put right."""
    args = _parse(argv)
    try:
        from miniature.build import build
        from miniature.stages import Plan, check_output
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    check_output(args.output)
    names = list(STAGES)
    plan = Plan(args.work, args.output, seed=args.seed, compiled=not args.eager)
    build(plan, names[: names.index(args.until) + 1])
    return EXIT_OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    stages = "\n".join(f"  {name:<12} {text}" for name, text in STAGES.items())
    parser = Parser(
        prog="lorarar miniature",
        description="Make the miniature from nothing: world, base, judge, LoRAs and hypernetwork.",
        epilog=_EPILOG.format(stages),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("command", choices=["build"], help="the only command")
    add("--work", type=Path, default=Path("build/miniature"), metavar="WORK", help="drawings and states of training")
    add(
        "-o",
        "--output",
        type=Path,
        default=MINIATURE_FOLDER,
        metavar="DIR",
        help="replaced at the end (default: the shipped)",
    )
    add("--until", choices=STAGES, default="publish", help="the last stage to run (default publish)")
    add("--seed", type=int, default=0, metavar="N", help="seed of everything (default 0, the shipped miniature's)")
    add("--eager", action="store_true", help="do not compile the base's training, for a machine without a C++ compiler")
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise InputError(f"--seed is {args.seed}; give a whole number from 0 upwards")
    for folder in (args.work, args.output):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: this is a file; give a folder")
    return args


if __name__ == "__main__":
    run_command(main)
