"""What the benchmark commands share: their options, the document's head, how it is given out. No toolchain."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.errors import InputError
from lorarar.files import atomic_file

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.merge_work import Machine
    from benchmarks.timing import Samples

SCHEMA_VERSION = 1
SGEMM_SIZE = 2048
# Seconds between runs. Without them ExecuTorch took 48 ms instead of 29 beside ONNX Runtime's spinning threads
# (KOALA-700M, rank 16).
REST = 0.2
# The share of its best rate that sgemm keeps among the other cases. Measured 0.9 and more on a quiet machine; another
# program on one of two cores slows small products 5 to 10 times (threads wait for each other), and no ratio holds then.
STEADY = 0.8


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How often, on how many threads, and where the document goes."""
    parser.add_argument("--rounds", type=int, default=5, help="measured runs of every case (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every runtime (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON document here as well")


def check_run_options(options: argparse.Namespace) -> None:
    if options.rounds < 1 or options.threads < 1:
        raise InputError("--rounds and --threads must be 1 or more")
    if options.json is not None and options.json.is_dir():
        raise InputError(f"--json {options.json} is a folder; give a file")


def head(benchmark: str, base: str, options: argparse.Namespace) -> dict[str, Any]:
    """The document's first entries: what was run, how, on what."""
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": benchmark,
        "base": base,
        "threads": options.threads,
        "rounds": options.rounds,
        "host": {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
    }


def machine_record(machine: Machine, sgemm: Samples) -> dict[str, Any]:
    """This machine's limits, and what share of its best rate sgemm kept among the other cases."""
    return {
        "steadiness": 2 * SGEMM_SIZE**3 / sgemm.median / machine.sgemm,
        "machine": {"sgemm_gflops": machine.sgemm / 1e9, "read_gb_per_s": machine.read_bandwidth / 1e9},
    }


def case_times(name: str, samples: Samples) -> dict[str, Any]:
    """A case's first entries."""
    return {"name": name, "median_s": samples.median, "best_s": samples.best, "seconds": list(samples.seconds)}


def say_if_busy(console: Console, steadiness: float) -> None:
    if steadiness < STEADY:
        share = f"{steadiness:.0%}"
        console.print(
            f"[yellow]the machine was busy (sgemm kept {share} of its best rate): close programs, run again[/]"
        )


def give_out(document: dict[str, Any], options: argparse.Namespace) -> None:
    """As the last line of stdout, and into the file that was asked for."""
    text = json.dumps(document)
    if options.json is not None:
        with atomic_file(options.json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    print(text)
