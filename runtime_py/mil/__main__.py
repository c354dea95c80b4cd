"""`python -m runtime_py.mil PACKAGE`: what a Core ML program takes, gives, computes and weighs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.command_line import EXIT_OK, Parser, main_of, run_command
from lorarar.console import console, print_table
from runtime_py.mil.program import Program

# Model.proto's specificationVersion → the system that first reads it.
_SYSTEMS = {6: "iOS 15", 7: "iOS 16", 8: "iOS 17", 9: "iOS 18"}


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(prog="python -m runtime_py.mil", description="Summarise a Core ML program.")
    made.add_argument("package", type=Path, help="an .mlpackage folder with an ML program")
    return made


def run(args: argparse.Namespace) -> int:
    """Print the summary of one package."""
    program = Program.open(args.package)
    version = program.specification_version
    system = f" ({_SYSTEMS[version]} or newer)" if version in _SYSTEMS else ""
    console().print(f"{program.path}: specification version {version}{system}")
    for function in program.functions:
        inputs, outputs = program.signature(function)
        tensors = [("input", name, str(kind)) for name, kind in inputs.items()]
        tensors += [("output", name, str(kind)) for name, kind in outputs.items()]
        print_table(("", "name", "type"), tensors, f"{function}: inputs and outputs", left=("", "name", "type"))
        counts = [(name, str(count)) for name, count in program.op_counts(function).most_common()]
        print_table(("operation", "count"), counts, f"{function}: operations", left=("operation",))
    sizes = [(name, f"{size:,}") for name, size in program.stored_bytes().most_common()]
    print_table(("stored as", "bytes"), sizes, "constants", left=("stored as",))
    return EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
