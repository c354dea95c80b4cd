"""`lorarar bench` and `lorarar report`: what there is, and that help needs no toolchain."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lorarar.commands import main
from lorarar.commands.bench import BENCHMARKS
from lorarar.errors import InputError

HELP = """
import sys
converters = "onnx", "onnxruntime", "coremltools", "executorch", "coreai"
for name in ("torch", "diffusers", "transformers", "peft", *converters):
    sys.modules[name] = None
from lorarar.commands import main
for given in {commands!r}:
    try:
        main([*given, "--help"])
    except SystemExit as end:
        assert not end.code
"""


def test_every_help_needs_no_toolchain() -> None:
    commands = [["bench"], ["report"], *(["bench", name] for name in BENCHMARKS)]
    code = HELP.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [f"usage: lorarar {' '.join(words)} " in done.stdout for words in commands] == [True] * len(commands)


def test_the_subcommands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in BENCHMARKS)
    with pytest.raises(InputError, match=r"'speed'.*merge.*unet"):
        main(["bench", "speed"])
