"""Save a LoRA as an `.onnx_adapter` file: `lorarar adapter BUNDLE LORA --role content -o content.onnx_adapter`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.layout import ROLES


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar adapter",
        description="Save a LoRA as a file that ONNX Runtime maps into memory and gives to the merger.",
    )
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle for the target onnx")
    made.add_argument("lora", type=Path, metavar="LORA", help="the LoRA: a .safetensors file or a PEFT folder")
    made.add_argument("--role", required=True, choices=ROLES, help="which of the merger's inputs")
    made.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="the .onnx_adapter file")
    return made


def run(args: argparse.Namespace) -> int:
    """Write the file and tell its size."""
    # Not above: `--help` answers without loading the runtime.
    from lorarar.lora import read_lora
    from runtime_py.bundle import Bundle
    from runtime_py.merge import write_adapter

    packed = write_adapter(Bundle.open(args.bundle), read_lora(args.lora), args.role, args.out)
    if warning := packed.warning():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.out} ({args.out.stat().st_size / 2**20:.1f} MB, {args.role})")
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
