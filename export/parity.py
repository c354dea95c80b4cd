"""Check a bundle under construction: every artifact just written is opened and run, and a mismatch is an error."""

from __future__ import annotations

from collections.abc import Callable

from lorarar.errors import FailedCheck
from runtime_py.bundle import Bundle
from runtime_py.check import CheckRow, check_component, check_pipeline


def check_all(bundle: Bundle, on_progress: Callable[[str], None]) -> list[CheckRow]:
    """Check every component of a bundle, and the whole pipeline where it is one; return a row a runtime.

    Raises FailedCheck at the first component that did not pass in every runtime of this machine.
    """
    rows: list[CheckRow] = []
    for name in bundle.manifest["components"]:
        rows += _passed(check_component(bundle, name, on_progress))
    if "pipeline" in bundle.manifest:
        rows += _passed([check_pipeline(bundle, on_progress)])
    return rows


def _passed(rows: list[CheckRow]) -> list[CheckRow]:
    for row in rows:
        if row.status != "passed":
            runtime = row.runtime or "the runtime"
            raise FailedCheck(f"{row.component} in {runtime}: {row.reason}; no bundle was written")
    return rows
