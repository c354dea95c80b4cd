"""Run a QNN artifact: `python -m runtime_py.qnn_worker FOLDER`, asked by `runtime_py.processes`."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime_py.processes import Model, serve
from runtime_py.qnn_session import MODEL, open_session


def open_model(path: Path) -> Model:
    """Load a context."""
    session = open_session(path / MODEL, {})
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


if __name__ == "__main__":
    serve(open_model, *sys.argv[1:])
