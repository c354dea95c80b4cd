"""docs/full-size.md and .csv: what `make test-full` measured, a row an export; a run replaces its own rows."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lorarar.cli import atomic_file

ROOT = Path(__file__).parent.parent
PAGE, ROWS = ROOT / "docs" / "full-size.md", ROOT / "docs" / "full-size.csv"
INTRODUCTION = """# Full-size UNets

Made by `make test-full`. Every row is an export of a UNet with adapter inputs (two LoRAs of rank 64, merged: 128) by
`python -m export.unet`, with seeded random weights since the trained ones could not be had here, for latents of 64×64,
batch 1. It includes the golden outputs by PyTorch in fp32 and the check of the saved artifact against them.
Time and memory are of that one process on the machine named; a step is one run of the artifact in the runtime that the
check uses: for Core ML the evaluator of the saved program in numpy, which says nothing of a phone's speed.
"""


@dataclass(frozen=True)
class Row:
    """One export."""

    base: str
    target: str
    precision: str
    megabytes: int
    chunks: int  # of a Core ML pipeline; 1 otherwise
    export_seconds: int
    peak_gigabytes: float
    psnr_db: float
    step_seconds: float
    host: str


def host() -> str:
    """The machine, in words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in names if line.startswith("model name")), model)
    return f"{os.cpu_count()} cores of {model}"


def measured(module: str, *arguments: str) -> tuple[float, float]:
    """Run one of our commands; its seconds and its own peak memory in GB. Fails with what it said."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return time.perf_counter() - start, usage.ru_maxrss / 1e6


def record(row: Row) -> None:
    """Put a row into the CSV, in place of an older one of the same export, and make the page again."""
    rows = [row] + [old for old in _read() if _key(old) != _key(row)]
    rows.sort(key=_key)
    with atomic_file(ROWS) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in rows)
    with atomic_file(PAGE) as path:
        path.write_text(page(rows), encoding="utf-8")


def page(rows: list[Row]) -> str:
    lines = [
        "| base | target | precision | artifact | export and check | peak memory | PSNR | one step |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        chunks = f" in {row.chunks} chunks" if row.chunks > 1 else ""
        lines.append(
            f"| {row.base} | {row.target} | {row.precision} | {row.megabytes} MB{chunks} | {row.export_seconds} s | "
            f"{row.peak_gigabytes:.1f} GB | {row.psnr_db:.1f} dB | {row.step_seconds:.1f} s |"
        )
    hosts = ", ".join(dict.fromkeys(row.host for row in rows))
    return "\n".join([INTRODUCTION, *lines, "", f"Measured on {hosts}. No phone, Mac or GPU was used.", ""])


def _read() -> list[Row]:
    if not ROWS.is_file():
        return []
    kinds = {field.name: field.type for field in fields(Row)}
    with ROWS.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    casts = {"int": int, "float": float, "str": str}
    return [Row(**{name: casts[str(kinds[name])](value) for name, value in row.items()}) for row in found]


def _key(row: Row) -> tuple[str, str, str]:
    return row.base, row.target, row.precision
