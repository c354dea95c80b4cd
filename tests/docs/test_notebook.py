"""The notebook in docs/ runs from its first cell to its last, and is committed without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SECONDS_A_CELL = 600
"""The slowest cell, the export of a pipeline, takes half a minute on two idle cores, and more on busy ones."""


def read(notebook: Path) -> NotebookNode:
    """Return a notebook of the current format; one of another fails."""
    return nbformat.read(notebook, as_version=4)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in read(notebook).cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel `python3` is this very Python; it finds our packages from any folder, and leaves the home folder alone.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    work = tmp_path / "work"
    work.mkdir()
    made = read(notebook)
    resources = {"metadata": {"path": str(work)}}
    NotebookClient(
        made, timeout=SECONDS_A_CELL, iopub_timeout=SECONDS_A_CELL, kernel_name="python3", resources=resources
    ).execute()
    shown = [output for cell in made.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2, (
        "an image of diffusers, one of the bundle"
    )
