"""Pages in docs/ that `make test-full` measures: a CSV with a row an export, and a table made of it.

The tests write their rows into build/measured. `python tests/support/measured_pages.py` takes them over into docs/, in
place of the older rows of the same exports.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from export.targets import TARGETS
from export.tolerance import PRECISIONS
from lorarar.files import atomic_file
from lorarar.markdown import markdown_table

ROOT = Path(__file__).parents[2]
DOCS, MEASURED = ROOT / "docs", ROOT / "build" / "measured"
FULL_SIZE = """# Full-size UNets

Made by `make test-full`. Every row is an export of a UNet with adapter inputs (two LoRAs of rank 64, stacked: 128 rows,
for attention, feed-forward layers and projections) by `lorarar export unet`, with seeded random weights since the
trained ones could not be had here, for latents of 64×64, batch 1. It includes the golden outputs by PyTorch in fp32 and
the check of the saved artifact against them.
"""
EVERY_PRECISION = """# The miniature in every precision

Made by `make test-full`. Every row is the miniature's pipeline by `lorarar export pipeline`, with the UNet in that
precision; the PSNR is against PyTorch in fp32, of one step of the UNet and of a whole image of three steps. Precisions
that are not here are not offered: `lorarar export pipeline` says why when it is asked for one.
"""
METHOD = """
Time and memory are of that one process; a step is one run of the UNet in the runtime that the check uses. For Core ML
that is the evaluator of the saved program in numpy, for Core AI Apple's runtime on one of Linux's threads: their times
say nothing of a phone. Measured on {hosts}. No phone, Mac or GPU was used.
"""


@dataclass(frozen=True)
class Row:
    """One export."""

    base: str
    target: str
    precision: str
    megabytes: float  # of the UNet's artifact
    chunks: int  # of a Core ML pipeline; 1 otherwise
    export_seconds: float
    peak_gib: float
    psnr_db: float  # of the UNet, the worst output and runtime
    image_psnr_db: float | None  # of a whole image, where the pipeline was exported
    image_guidance: str  # how that image was guided, in words; empty without one
    step_seconds: float
    host: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.base, self.target, self.precision


@dataclass(frozen=True)
class Page:
    """NAME.md and NAME.csv of a folder."""

    name: str
    introduction: str

    def record(self, *new: Row, folder: Path = MEASURED) -> None:
        """Put rows into the folder's CSV, in place of older ones of the same exports, and make its page again."""
        rows = sorted(({row.key: row for row in (*self.rows(folder), *new)}).values(), key=lambda row: row.key)
        with atomic_file(folder / f"{self.name}.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(each) for each in rows)
        with atomic_file(folder / f"{self.name}.md") as path:
            path.write_text(self.text(rows), encoding="utf-8")

    def rows(self, folder: Path = DOCS) -> list[Row]:
        """Return the rows of the folder's CSV; none without one."""
        source = folder / f"{self.name}.csv"
        if not source.is_file():
            return []
        casts = {"int": int, "float": float, "str": str, "float | None": lambda value: float(value) if value else None}
        kinds = {field.name: casts[str(field.type)] for field in fields(Row)}
        with source.open(newline="", encoding="utf-8") as file:
            return [Row(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]

    def text(self, rows: list[Row]) -> str:
        """Return the page."""
        images = any(row.image_psnr_db is not None for row in rows)
        columns = ["base", "target", "precision", "UNet", "export and check", "peak memory", "PSNR", "one step"]
        columns += ["PSNR of an image"] * images
        lines = []
        for row in rows:
            chunks = f" in {row.chunks} chunks" if row.chunks > 1 else ""
            cells = [*row.key, f"{row.megabytes:.4g} MB{chunks}", f"{row.export_seconds:.0f} s"]
            cells += [f"{row.peak_gib:.1f} GiB", f"{row.psnr_db:.1f} dB", f"{row.step_seconds:.3g} s"]
            cells += [f"{row.image_psnr_db:.1f} dB" if row.image_psnr_db is not None else "–"] * images
            lines.append(cells)
        hosts = ", ".join(dict.fromkeys(row.host for row in rows))
        parts = [self.introduction, markdown_table(columns, lines, left=3), *images_guided(rows)]
        return "\n".join([*parts, METHOD.format(hosts=hosts)])


def images_guided(rows: list[Row]) -> list[str]:
    """Return the sentence of a page on how its whole images were guided; nothing where there are none."""
    ways = " or ".join(sorted({row.image_guidance for row in rows if row.image_guidance}))
    return [f"\nThe whole images have {ways}."] if ways else []


PAGES = {page.name: page for page in (Page("full-size", FULL_SIZE), Page("precisions", EVERY_PRECISION))}


# The kernel counts a process's peak from its fork, when it still is its parent: so a small one starts it.
_STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdout=sys.stdout, stderr=subprocess.STDOUT)
_, status, usage = os.wait4(process.pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def measured(module: str, *arguments: str) -> tuple[float, float]:
    """Run one of our commands, and return its seconds and its own peak memory in GiB. Fails with what it said."""
    with tempfile.NamedTemporaryFile() as peak:
        starter = [sys.executable, "-S", "-c", _STARTER, peak.name]
        start = time.perf_counter()
        done = subprocess.run(
            [*starter, sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
        )
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stdout + done.stderr
        return seconds, int(peak.read()) / 2**20


TARGETS_PAGE = """# Targets, and what proved them

Made by `python tests/support/measured_pages.py` of the rows that `make test-full` measured and of the targets' own
descriptions (`export/targets`). A row is a target in a precision of the UNet: the size of the UNet's artifact and its
PSNR against PyTorch in fp32, of one step, for the miniature and for KOALA-700M (random weights, latents of 64×64), and,
of the miniature, of a whole image of three steps. Higher is closer;
[what must be reached](guide/targets.md#what-must-be-reached). A dash is what was not measured; a precision that is
missing is not offered.
"""


def targets_page(precisions: list[Row], full: list[Row]) -> str:
    """Return the page of all targets."""
    small = {(row.target, row.precision): row for row in precisions if row.base == "miniature"}
    large = {(row.target, row.precision): row for row in full if row.base == "koala-700m"}
    columns = ("target", "precision", "miniature", "PSNR of a step", "PSNR of an image", "KOALA-700M", "PSNR of a step")
    lines = []
    for name, target in TARGETS.items():
        for precision in sorted(target.precisions, key=PRECISIONS.index):
            cells = [name, precision]
            for row in (small.get((name, precision)), large.get((name, precision))):
                cells += [f"{row.megabytes:.4g} MB", f"{row.psnr_db:.1f} dB"] if row else ["–", "–"]
                if len(cells) == 4:
                    image = row.image_psnr_db if row else None
                    cells.append("–" if image is None else f"{image:.1f} dB")
            lines.append(cells)
    proofs = [(name, it.runs_on, it.proved_by, it.never_run) for name, it in TARGETS.items()]
    proved = markdown_table(("target", "runs on", "proved here by", "never run on"), proofs, left=4)
    lacks = [f"- `{name}` has no {precision}: {reason}." for name, precision, reason in _not_offered()]
    measured_rows = [markdown_table(columns, lines, left=2), *images_guided(precisions)]
    return "\n".join([TARGETS_PAGE, *measured_rows, "", proved, "", *lacks, ""])


def _not_offered() -> list[tuple[str, str, str]]:
    return [(name, precision, why) for name, it in TARGETS.items() for precision, why in it.not_offered.items()]


if __name__ == "__main__":
    for page in PAGES.values():
        page.record(*page.rows(MEASURED), folder=DOCS)
    with atomic_file(DOCS / "targets.md") as path:
        path.write_text(targets_page(PAGES["precisions"].rows(), PAGES["full-size"].rows()), encoding="utf-8")
