"""Runs calls that types forbid in a process of their own, where none are checked: the tests check all types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]


def run_untyped(script: str, *arguments: str | Path, cwd: Path | None = None) -> Any:
    """Run a script of this folder; returns the JSON that it prints."""
    command = [sys.executable, str(SUPPORT / script), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(SUPPORT)))}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, env=environment)
    return json.loads(ran.stdout)


def error_of(call: Callable[[], object]) -> list[str]:
    """Call, and return the kind of its error and what it says."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["none", ""]
