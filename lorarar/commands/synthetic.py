"""Write synthetic LoRAs of a base's full size, for trying the toolkit out where no trained ones are at hand.

    lorarar synthetic --base koala-700m --rank 16 --seed 1 --dialect kohya -o content.safetensors

They are random numbers with a decaying spectrum: they load everywhere and mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.base.names import BASES_HELP, DEFAULT_BASE, MINIATURE, base_files, load_layout
from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.files import check_lora_output
from lorarar.layout import ADAPT
from lorarar.lora import DTYPES, WRITERS
from lorarar.synthetic import DEFAULT_RANK, synthetic_lora


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="lorarar synthetic", description=__doc__)
    add = made.add_argument
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the .safetensors file")
    add("--base", default=DEFAULT_BASE, help=BASES_HELP)
    parts = "what it has layers of: whole transformer blocks, or the attention alone (default attention)"
    add("--adapt", choices=list(ADAPT), default="attention", help=parts)
    add("--rank", type=int, default=DEFAULT_RANK, metavar="R", help="rank of every layer (default %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="seed of the random numbers (default %(default)s)")
    add("--strength", type=float, default=1.0, metavar="X", help="standard deviation of ΔW (default %(default)s)")
    add("--dialect", choices=WRITERS, default="peft", help="key names (default %(default)s)")
    add("--dtype", choices=DTYPES, default="fp16", help="number format (default %(default)s)")
    return made


def run(args: argparse.Namespace) -> int:
    """Write the file and tell what it holds."""
    check_lora_output(args.out, *base_files(MINIATURE), *base_files(args.base))
    lora = synthetic_lora(load_layout(args.base, args.adapt), args.rank, args.seed, args.strength)
    lora.save(args.out, args.dialect, args.dtype)
    print(f"{args.out}: {len(lora.layers)} layers of rank {args.rank}, {args.dialect}, random numbers")
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
