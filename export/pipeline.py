"""Run `python -m export.pipeline`, which is `lorarar export pipeline`; the function of this name is in `export.api`."""

import sys

from lorarar.command_line import run_command
from lorarar.commands.export import main

if __name__ == "__main__":
    run_command(lambda _: main(["pipeline", *sys.argv[1:]]))
