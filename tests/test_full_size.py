"""Full sizes (make test-full): every target exports the mergers of SDXL and KOALA within its time and memory."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from full_size_page import Row, host, measured, record

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


# (base, target, precision) → seconds and gigabytes that the export with its check may take.
UNETS = {
    ("koala-700m", "onnx", "fp32"): (150, 6.5),
    ("koala-700m", "coreml", "fp16"): (180, 6.5),
    ("koala-700m", "executorch", "w8"): (300, 6.0),
    ("koala-700m", "executorch", "fp32"): (360, 11.0),
    ("koala-1b", "onnx", "fp16"): (360, 8.0),
    ("sdxl", "onnx", "fp16"): (360, 8.0),
    ("sdxl", "coreml", "fp16"): (720, 16.0),
}
STEP_SECONDS, STEP_GB = 40, 6.0  # of one checked KOALA-700M step of 64×64 latents in the evaluator


@pytest.mark.parametrize(("base", "target", "precision"), UNETS)
def test_a_full_size_unet(
    base: str, target: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exports, checks, and writes what it took into docs/full-size.md, before it is compared with what is allowed."""
    bundle = tmp_path / "bundle"
    given = ("--target", target, "--base", base, "--precision", precision, "--untrained", "--resolution", "512")
    seconds, peak = measured("export.unet", *given, "--out", str(bundle))
    check_seconds, check_peak = measured("runtime_py.check", str(bundle), "--json", str(tmp_path / "rows.json"))
    checked = json.loads((tmp_path / "rows.json").read_text())
    entry = json.loads((bundle / "manifest.json").read_text())["components"]["unet"]
    weights = [file.stat().st_size for file in (bundle / entry["file"]).glob("Data/com.apple.CoreML/weights/*")]
    psnr = min(output["psnr_db"] for row in checked for output in row["outputs"])
    step = checked[0]["run_s"]
    row = Row(
        base, target, precision, entry["bytes"] // 10**6, max(1, len(weights)), round(seconds), peak, psnr, step, host()
    )
    record(row)
    shutil.rmtree(bundle)  # gigabytes that pytest would keep
    with capsys.disabled():
        print(f"\n{row}; the check alone {check_seconds:.0f} s, {check_peak:.1f} GB")
    assert all(found["status"] == "passed" for found in checked)
    assert all(size <= 1.01e9 for size in weights)
    allowed_seconds, allowed_gb = UNETS[base, target, precision]
    assert seconds <= allowed_seconds
    assert peak <= allowed_gb
    if (base, target) == ("koala-700m", "coreml"):
        assert step <= STEP_SECONDS and check_peak <= STEP_GB


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
