"""Add the repository's other documents and the notebook to the site that `make docs` builds (hooks of MkDocs).

MkDocs knows the files under docs/ alone. Every document of the repository is written so that its links work where the
repository is browsed, so the same relative links have to lead to pages of the site here.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository/"
"""The folder of the site for what lies outside docs/."""
DOCUMENTS = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "android_demo/README.md",
    "ios_demo/README.md",
    "benchmarks/runner/README.md",
    "models/miniature/README.md",
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each document outside docs/, and one for each notebook."""
    for document in DOCUMENTS:
        files.append(File.generated(config, OUTSIDE + document, abs_src_path=str(ROOT / document)))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ into links within the site, and add the files that they lead to."""

    def relink(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path or target.startswith("mailto:"):
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page.file.src_uri)), path))
        if (ROOT / place).is_dir():
            return text  # A folder of sources has no page.
        wanted = site_path(place)
        if wanted.endswith(".ipynb") and not page.file.src_uri.startswith("notebooks/"):
            wanted = wanted.removesuffix(".ipynb") + ".md"
        if wanted not in files.src_uris and (ROOT / place).is_file():
            files.append(File.generated(config, wanted, abs_src_path=str(ROOT / place)))
        relative = posixpath.relpath(wanted, posixpath.dirname(page.file.src_uri) or ".")
        return f"{image}[{text}]({relative}{mark}{anchor})"

    return LINK.sub(relink, markdown)


def repository_path(site: str) -> str:
    """Return the path in the repository of a file of the site."""
    return site.removeprefix(OUTSIDE) if site.startswith(OUTSIDE) else f"docs/{site}"


def site_path(repository: str) -> str:
    """Return the path in the site of a file of the repository."""
    return repository.removeprefix("docs/") if repository.startswith("docs/") else OUTSIDE + repository


def notebook_page(notebook: Path) -> str:
    """Return a notebook as Markdown: its text, and its code in fences. Outputs are not committed, so there are none."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([*parts, f"[This page as a notebook]({notebook.name}), to run it."]) + "\n"
