"""Every export ends here: the artifact just written is opened and run, and a mismatch is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lorarar.errors import FailedCheck
from runtime_py.bundle import Bundle
from runtime_py.check import CheckRow, check_component, check_pipeline


def measure(folder: Path, component: str, progress: Callable[[str], None]) -> list[CheckRow]:
    """Check one component of a bundle under construction. Raises FailedCheck unless every runtime passed."""
    rows = check_component(Bundle.open(folder), component, progress)
    for row in rows:
        _require(row)
    return rows


def measure_pipeline(folder: Path, progress: Callable[[str], None]) -> CheckRow:
    """Check the whole pipeline of a bundle under construction. Raises FailedCheck unless it passed."""
    row = check_pipeline(Bundle.open(folder), progress)
    _require(row)
    return row


def _require(row: CheckRow) -> None:
    if row.status != "passed":
        runtime = row.runtime or "the runtime"
        raise FailedCheck(f"{row.component} in {runtime}: {row.reason}; no bundle was written")
