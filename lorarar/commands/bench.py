"""Time merges, UNets, pipelines and components, here and on phones.

    lorarar bench merge|unet|pipeline|device|estimate …

Each subcommand is also `python -m benchmarks.NAME`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from lorarar.command_line import EXIT_OK, run_command
from lorarar.errors import InputError

BENCHMARKS = {
    "merge": "the merge in all its forms, whole files, and ZipLoRA's optimisation beside it",
    "unet": "a step of the UNet with adapter inputs, and with the LoRA fused into the weights",
    "pipeline": "text to image, stage by stage, through several bundles",
    "device": "components of bundles on this computer or on phones, one record each; or a lower bound",
    "estimate": "how far off a lower bound is on this computer",
}
"""Subcommand, which is a module of `benchmarks` as well → what it times."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark and return its exit code; raises InputError for anything the user can put right."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0] in ("-h", "--help"):
        lines = ["usage: lorarar bench BENCHMARK …", "", *(f"  {name:<10}{text}" for name, text in BENCHMARKS.items())]
        print("\n".join([*lines, "", "lorarar bench BENCHMARK --help tells a benchmark's options."]))
        return EXIT_OK
    if given[0] not in BENCHMARKS:
        raise InputError(f"unknown benchmark {given[0]!r}; valid are {', '.join(BENCHMARKS)}")
    code: int = import_module(f"benchmarks.{given[0]}").main(given[1:])
    return code


if __name__ == "__main__":
    run_command(main)
