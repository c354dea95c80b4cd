"""`python -m runtime_py.mil PACKAGE`: what a Core ML program takes, gives, computes and weighs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lorarar.command_line import EXIT_OK, Parser, run_command
from runtime_py.mil.program import Program

# Model.proto's specificationVersion → the system that first reads it.
_SYSTEMS = {6: "iOS 15", 7: "iOS 16", 8: "iOS 17", 9: "iOS 18"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the summary of one package."""
    parser = Parser(prog="python -m runtime_py.mil", description="Summarise a Core ML program.")
    parser.add_argument("package", type=Path, help="an .mlpackage folder with an ML program")
    program = Program.open(parser.parse_args(arguments).package)
    console = Console()
    version = program.specification_version
    system = f" ({_SYSTEMS[version]} or newer)" if version in _SYSTEMS else ""
    console.print(f"{program.path}: specification version {version}{system}", soft_wrap=True, highlight=False)
    for function in program.functions:
        console.print(_tensors(program, function))
        console.print(_operations(program, function))
    console.print(_weights(program))
    return EXIT_OK


def _tensors(program: Program, function: str) -> Table:
    table = Table("", "name", "type", title=f"{function}: inputs and outputs", title_justify="left")
    for role, types in zip(("input", "output"), program.signature(function), strict=True):
        for name, kind in types.items():
            table.add_row(role, name, str(kind).replace("[", r"\["))
    return table


def _operations(program: Program, function: str) -> Table:
    table = Table("operation", "count", title=f"{function}: operations", title_justify="left")
    table.columns[1].justify = "right"
    for name, count in program.op_counts(function).most_common():
        table.add_row(name, str(count))
    return table


def _weights(program: Program) -> Table:
    table = Table("stored as", "bytes", title="constants", title_justify="left")
    table.columns[1].justify = "right"
    for name, size in program.stored_bytes().most_common():
        table.add_row(name, f"{size:,}")
    return table


if __name__ == "__main__":
    run_command(main)
