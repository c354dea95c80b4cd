"""Benchmark records as one page: `lorarar report`, which is `python -m benchmarks.report`."""

from __future__ import annotations

from benchmarks.report import main, parser
from lorarar.command_line import run_command

__all__ = ["main", "parser"]

if __name__ == "__main__":
    run_command(main)
