"""Tell what of a Core ML bundle would leave the Neural Engine: `lorarar lint BUNDLE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from lorarar.command_line import EXIT_FAILED_CHECK, EXIT_OK, Parser, main_of, run_command
from lorarar.console import print_table, status


def parser() -> Parser:
    """Make the command's parser."""
    made = Parser(
        prog="lorarar lint",
        description="Tell what of a bundle's Core ML programs would leave the Neural Engine, and by whose rule.\n\n"
        "Nothing is run: operations, shapes and types are compared with published rules. What a device does, Xcode's\n"
        "performance report tells. Exits 1 when a rule is broken.",
    )
    made.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle for the target coreml")
    return made


def run(args: argparse.Namespace) -> int:
    """Look through the programs and print what was found, and the sources of the rules."""
    # Not above: `--help` answers without loading the runtime.
    from runtime_py.bundle import Bundle
    from runtime_py.lint import RULES, lint_bundle

    with status("opening and verifying the bundle"):
        bundle = Bundle.open(args.bundle)
        found = lint_bundle(bundle)
    if not found:
        print(f"nothing of {len(bundle.manifest['components'])} components breaks a rule of the Neural Engine")
        return EXIT_OK
    rows = [(each.component, str(each.chunk), RULES[each.rule].wants, str(each.count), each.first) for each in found]
    left = ("component", "wanted", "first")
    print_table(("component", "chunk", "wanted", "places", "first"), rows, bundle.manifest["base"], left=left)
    sources = [(RULES[rule].wants, RULES[rule].source) for rule in dict.fromkeys(each.rule for each in found)]
    print_table(("wanted", "says"), sources, left=("wanted", "says"))
    return EXIT_FAILED_CHECK


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
