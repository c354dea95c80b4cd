"""The documentation's site builds without a warning, and its pages fetch nothing from anybody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)"|<link rel="(?!canonical)[^>]*href="(https?:[^"]+)"'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_pages_fetch_nothing(site: Path) -> None:
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 20
    assert {str(path): FETCHED.findall(text) for path, text in pages.items() if FETCHED.search(text)} == {}


def test_documents_outside_docs_are_pages_whose_links_stay_within_the_site(site: Path) -> None:
    page = site / "repository" / "ios_demo" / "index.html"
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r'href="([^"#:]+)(?:#[^"]*)?"', text) if link.endswith(".html")]
    assert any(link.endswith("benchmark-a-phone.html") for link in links)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_tables_and_code_in_lists_are_rendered(site: Path) -> None:
    """Python's Markdown wants blank lines and four spaces where GitHub does without."""
    for path in site.rglob("*.html"):
        article = path.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
        text = re.sub(r"<(pre|code)[^>]*>.*?</\1>", "", article, flags=re.DOTALL)
        assert not re.search(r"\|\s*-{3,}|```|(?:<p>|\n)(?:[-|] |\d\. )", text), path.relative_to(site)


def test_the_notebook_is_a_page(site: Path) -> None:
    text = (site / "notebooks" / "merge-and-export.html").read_text(encoding="utf-8")
    assert "read_lora" in text
    assert (site / "notebooks" / "merge-and-export.ipynb").is_file()


def test_the_reference_shows_what_the_packages_offer(site: Path) -> None:
    for page, names in {
        "lorarar": ("read_lora", "merge", "LoRA", "Hypernetwork"),
        "export": ("hypernet", "unet", "pipeline"),
        "runtime_py": ("Bundle", "Session"),
    }.items():
        text = (site / "api" / f"{page}.html").read_text(encoding="utf-8")
        headings = re.findall(r'<h[23] id="([^"]+)"', text)
        for name in names:
            assert any(heading.rpartition(".")[2] == name for heading in headings), f"{page}: {name}"
