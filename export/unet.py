"""Run `python -m export.unet`, which is `lorarar export unet`; the function of this name is in `export.api`."""

import sys

from lorarar.command_line import run_command
from lorarar.commands.export import main

if __name__ == "__main__":
    run_command(lambda _: main(["unet", *sys.argv[1:]]))
