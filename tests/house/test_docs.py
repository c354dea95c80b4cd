"""What the documents say is what was measured, and what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from measured_pages import PAGES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "models" / "miniature" / "README.md"])
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", PAGES)
def test_a_measured_page_is_its_csv(name: str) -> None:
    page, rows = ROOT / "docs" / f"{name}.md", PAGES[name].rows()
    # Without rows nothing was measured yet, and there is no page that says otherwise.
    assert (page.read_text(encoding="utf-8") if page.exists() else None) == (PAGES[name].text(rows) if rows else None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target.partition("#")[0]).exists(), f"{document.name} links to {target}"


def test_the_results_page_quotes_the_tables() -> None:
    """Every line of a table in docs/results.md is a line of a tables.md that `lorarar evaluate` wrote."""
    tables = [path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "docs" / "results").rglob("tables.md")]
    written = {line for lines in tables for line in lines}
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for line in page if line.startswith("|")]
    assert len(quoted) > 20
    assert [line for line in quoted if line not in written] == []
