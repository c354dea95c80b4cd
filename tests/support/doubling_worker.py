"""A process that doubles what it is given: -1 and -2 end it, and at 0 it signals to the test and takes time.

A file `slow` beside its artifact makes it load so, and a file `full` not at all.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from runtime_py.processes import Model, serve


def opened(path: Path) -> Model:
    """Read which sizes to say, from the file in the place of an artifact."""
    size = int(path.read_text())
    if path.with_name("full").exists():
        raise OSError("there is no room; free some")
    if path.with_name("slow").exists():
        _wait()
    return Model(double, {"x": [size]}, {"y": [size]})


def _wait() -> None:
    os.kill(os.getppid(), signal.SIGALRM)
    time.sleep(0.3)


def double(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Double the numbers."""
    if inputs["x"][0] == -1:
        os.abort()
    if inputs["x"][0] == -2:
        os.kill(os.getpid(), signal.SIGKILL)
    if inputs["x"][0] == 0:
        _wait()
    return {"y": 2 * inputs["x"]}


if __name__ == "__main__":
    serve(opened, sys.argv[1])
