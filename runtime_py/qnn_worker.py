"""Run a QNN artifact as a process: `python -m runtime_py.qnn_worker MODEL`, asked by `runtime_py.backends.qnn`.

Each message is its length (8 bytes, little endian) and tensors as a safetensors file. The first answer has none: the
artifact is loaded. Native libraries write to standard output too, so answers have a copy of it, and it becomes the
standard error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors.numpy import load, save

from runtime_py.qnn_session import open_session


def send(stream: BinaryIO, tensors: dict[str, np.ndarray]) -> None:
    """Write one message."""
    data = save(tensors)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, np.ndarray] | None:
    """Read one message; None where the other end is closed, or was in the middle of it."""
    size = int.from_bytes(stream.read(8), "little")
    data = stream.read(size) if size else b""
    return load(data) if size and len(data) == size else None


def main(model: str) -> None:
    """Load the artifact and answer until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    session = open_session(Path(model), {})
    names = [output.name for output in session.get_outputs()]
    send(answers, {})
    while (inputs := receive(sys.stdin.buffer)) is not None:
        send(answers, dict(zip(names, session.run(None, inputs), strict=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
