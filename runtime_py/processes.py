"""Run our own modules in processes of their own, where what they call may end its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(module: str, *arguments: str | Path, **pipes: Any) -> subprocess.Popen[bytes]:
    """Start one of our modules in a process of its own, which finds what this one finds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], env=environment, **pipes)


def end_of(process: subprocess.Popen[bytes], said: bytes) -> str:
    """Return in a few words how a process ended: its signal, or the last thing that it said."""
    code = process.wait()
    if code < 0:
        return f"its process ended by signal {-code}"
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else f"its process ended with {code}"
