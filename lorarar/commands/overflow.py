"""Find where a Core ML program overflows in fp16: `lorarar overflow BUNDLE [--component unet] [--top 10]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.command_line import EXIT_FAILED_CHECK, EXIT_OK, Parser, main_of, run_command
from lorarar.console import print_table, status
from lorarar.settings import check_at_least


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar overflow",
        description="Find where a Core ML program comes near fp16's largest number, or over it, before a phone\n"
        "shows a black image.\n\n"
        "Runs the program on the golden inputs of a component, every result that it declares as fp16 rounded to it.\n"
        "Prints the operations with the largest values, and every one that made an infinity or a NaN; exits 1 when\n"
        "there is such a one. What is declared as fp32 is not rounded, and large values are no fault there.",
    )
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle for the target coreml")
    made.add_argument("--component", metavar="NAME", help="only this one (default: every one)")
    made.add_argument("--top", type=int, default=5, metavar="N", help="how many of the largest (default %(default)s)")
    return made


def run(args: argparse.Namespace) -> int:
    """Trace the components and print the operations worth a look."""
    check_at_least(1, top=args.top)

    # Not above: `--help` answers without loading the runtime.
    from runtime_py.bundle import Bundle
    from runtime_py.overflow import LARGEST_HALF, NEAR, trace_component, worth_a_look

    rows: list[tuple[str, ...]] = []
    broken = 0
    with status("opening and verifying the bundle") as show:
        bundle = Bundle.open(args.bundle)
        for name in [args.component] if args.component else list(bundle.manifest["components"]):
            results = trace_component(bundle, name, lambda done, all_, name=name: show(f"{name}: {done}/{all_}"))  # type: ignore[misc]
            for each in worth_a_look(results, args.top):
                bad = each.infinities + each.nans
                broken += bad > 0
                near = "near the limit" if each.largest > NEAR * LARGEST_HALF else ""
                near = "fp32, not rounded" if near and each.dtype == "float32" else near
                rows.append((name, each.type, each.output, f"{each.largest:.4g}", near, str(bad) if bad else ""))
    columns = ("component", "operation", "output", "largest", "", "not finite")
    title = f"{bundle.manifest['base']} · largest values in fp16, of {LARGEST_HALF:.0f}"
    print_table(columns, rows, title, left=("component", "operation", "output", ""))
    print(f"{broken} operations overflow" if broken else "nothing overflows")
    return EXIT_FAILED_CHECK if broken else EXIT_OK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
