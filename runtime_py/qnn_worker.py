"""Run a QNN artifact: `python -m runtime_py.qnn_worker FOLDER`, asked by `runtime_py.processes`."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime_py.processes import Model, serve
from runtime_py.qnn_session import MODEL, open_session


def open_model(path: Path) -> Model:
    """Load a context."""
    session = open_session(path / MODEL, {})
    inputs, outputs = (
        {each.name: each.shape for each in ends} for ends in (session.get_inputs(), session.get_outputs())
    )
    return Model(lambda given: dict(zip(outputs, session.run(None, given), strict=True)), inputs, outputs)


if __name__ == "__main__":
    serve(open_model, *sys.argv[1:])
