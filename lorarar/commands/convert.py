"""Make a plain LoRA of a small enough rank: `lorarar convert IN --rank R -o OUT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.base.names import MINIATURE, MINIATURE_FOLDER
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import status, warn
from lorarar.errors import InputError
from lorarar.files import check_lora_output, whole
from lorarar.lora import DTYPES, WRITERS
from lorarar.lora.write import partly_read
from lorarar.toolchains import require_torch


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar convert",
        description="Make a plain LoRA of at most a rank: of LoHa, LoKr, DoRA and whole differences, or of a LoRA of\n"
        "a larger rank. Each layer is cut to the nearest one by SVD, and what is lost is told.",
    )
    add = made.add_argument
    add("lora", type=Path, metavar="LORA", help="a .safetensors file or a PEFT folder")
    add("--rank", type=int, required=True, metavar="R", help="the largest rank of a layer")
    bases = f"{MINIATURE}, a diffusers folder, a .safetensors checkpoint or a hub id"
    add("--base", metavar="BASE", help=f"for DoRA, whose ΔW depends on the base's weights: {bases}")
    add("--dialect", choices=WRITERS, default="peft", help="key names of the output (default peft)")
    add("--dtype", choices=DTYPES, default="fp32", help="number format of the output (default fp32)")
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the plain LoRA")
    return made


def run(args: argparse.Namespace) -> int:
    """Convert, write and tell what was lost."""
    check_lora_output(args.out, args.lora, *whole(MINIATURE_FOLDER, *([Path(args.base)] if args.base else [])))
    require_torch()
    # Not above: `--help` answers without loading PyTorch.
    from lorarar.base.weights import base_weights
    from lorarar.convert import convert, has_dora

    if args.base and not has_dora(args.lora):
        raise InputError(f"`base` is for DoRA, and {args.lora} has none; leave it out")
    with status("converting") as tell:
        lora = convert(args.lora, args.rank, base_weights(args.base) if args.base else None)
        tell("writing")
        lora.save(args.out, args.dialect, args.dtype)
    warn((*lora.warnings, *partly_read(lora, args.dialect)))
    print(f"{args.out}: {len(lora.layers)} layers, {lora.ranks}, {args.out.stat().st_size / 1e6:.1f} MB")
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
