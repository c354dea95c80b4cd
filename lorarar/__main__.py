"""Run `python -m lorarar`, which is the console script `lorarar`."""

from lorarar.commands import run

run()
