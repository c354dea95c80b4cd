"""Find where a Core ML program comes near fp16's largest number, or over it, before a phone shows a black image.

    lorarar overflow BUNDLE [--component unet] [--top 10]

Runs the program on the component's golden inputs with every result rounded to fp16. Prints the operations with the
largest values, and every one that made an infinity or a NaN; exits 1 when there is such a one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lorarar.command_line import EXIT_FAILED_CHECK, EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from runtime_py.bundle import Bundle
from runtime_py.check import golden_inputs
from runtime_py.mil import OpTrace, Program

LARGEST_HALF = 65504.0
_NEAR = 0.25  # of the largest, from where another input may well go over


def traced(bundle: Bundle, component: str, progress: Callable[[int, int], None] | None = None) -> list[OpTrace]:
    """Every float result of one run on golden inputs. InputError unless the bundle is Core ML's."""
    if bundle.manifest["target"] != "coreml":
        raise InputError(f"{bundle.path}: only Core ML programs can be traced; export with --target coreml")
    found = bundle.component(component)
    results: list[OpTrace] = []
    Program.open(found.path).run(golden_inputs(found), "fp16", trace=results, progress=progress)
    return results


def worth_a_look(results: Sequence[OpTrace], top: int) -> list[OpTrace]:
    """Those that are not finite, in running order, then the `top` largest others."""
    broken = [each for each in results if each.infinities or each.nans]
    sound = sorted((each for each in results if each not in broken), key=lambda each: -each.largest)
    return [*broken, *sound[:top]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="lorarar overflow", description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="the folder that python -m export.pipeline --target coreml made")
    parser.add_argument("--component", help="only this one (default: every one)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many of the largest (default %(default)s)")
    options = parser.parse_args(argv)
    if options.top < 1:
        raise InputError(f"--top is {options.top}; give 1 or more")

    from rich.console import Console
    from rich.table import Table

    bundle = Bundle.open(options.bundle)
    names = [options.component] if options.component else list(bundle.manifest["components"])
    table = Table(title=f"{bundle.manifest['base']} · largest values in fp16, of {LARGEST_HALF:.0f}")
    for column in ("component", "operation", "output", "largest", "", "not finite"):
        table.add_column(column, justify="right" if column in ("largest", "not finite") else "left")
    broken = 0
    with Console(stderr=True).status("running") as status:
        for name in names:
            results = traced(bundle, name, lambda done, total, name=name: status.update(f"{name}: {done}/{total}"))  # type: ignore[misc]
            for each in worth_a_look(results, options.top):
                bad = each.infinities + each.nans
                broken += bad > 0
                near = "near the limit" if each.largest > _NEAR * LARGEST_HALF else ""
                table.add_row(name, each.type, each.output, f"{each.largest:.4g}", near, str(bad) if bad else "")
    Console(highlight=False).print(table)
    print(f"{broken} operations overflow" if broken else "nothing overflows")
    return EXIT_FAILED_CHECK if broken else EXIT_OK


if __name__ == "__main__":
    run_command(main)
