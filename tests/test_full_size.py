"""Full sizes (make test-full): every target exports the mergers of SDXL and KOALA within its time and memory."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PEAK_GB = 6.0
SECONDS = 300.0

pytestmark = pytest.mark.full


@pytest.mark.parametrize("base", ["sdxl", "koala-700m", "koala-1b"])
@pytest.mark.parametrize("target", ["onnx", "coreml", "executorch"])
def test_export_and_check(target: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    start = time.perf_counter()
    run("export.hypernet", "--target", target, "--base", base, "--untrained", "--rank", "64", "--out", str(out))
    exported = time.perf_counter() - start
    run("runtime_py.check", str(out), "--json", str(tmp_path / "rows.json"))
    # Of all children so far: an upper bound of each.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    rows = json.loads((tmp_path / "rows.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    counts = {"qo": 0, "kv": 0}
    for group in manifest["layout"]["groups"]:
        counts[group["name"][:2]] += len(group["modules"])
    with capsys.disabled():
        print(f"\n{base} {target}: exported and checked in {exported:.0f} s, peak so far {peak:.2f} GB")
    assert all(row["status"] == "passed" for row in rows)
    assert len(manifest["layout"]["groups"]) == 6
    assert counts["qo"] == counts["kv"] == {"sdxl": 280, "koala-700m": 84, "koala-1b": 120}[base]
    golden = sum(path.stat().st_size for path in (out / "golden").iterdir())
    assert golden <= 8 * 2**20
    assert peak <= PEAK_GB
    assert exported <= SECONDS


@pytest.mark.parametrize(("target", "precision"), [("coreml", "w6"), ("coreml", "w4")])
def test_palettes_of_the_miniature(target: str, precision: str, tmp_path: Path) -> None:
    """Every other precision of a UNet is tested on a tiny one."""
    out = tmp_path / "bundle"
    run("export.unet", "--target", target, "--precision", precision, "--out", str(out))
    run("runtime_py.check", str(out), "--json", str(tmp_path / "rows.json"))
    assert {row["status"] for row in json.loads((tmp_path / "rows.json").read_text())} == {"passed"}


def run(module: str, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
