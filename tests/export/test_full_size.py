"""Full sizes (make test-full): every target exports the hypernetworks of SDXL and KOALA within its time and memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from measured_pages import PAGES, Row, measured
from tiny_world import soc_of

from export.golden import GOLDEN_IMAGE
from export.targets import TARGETS
from lorarar.machine import machine_name
from runtime_py.bundle import Bundle
from runtime_py.guidance import guidance_in_words
from runtime_py.lint import lint_bundle

PEAK_GIB = 6.0
SECONDS = 300.0

pytestmark = pytest.mark.full


def chosen(target: str) -> list[str]:
    """The arguments that name a target, and its chip where it has one."""
    soc = soc_of(target)
    return ["--target", target, *(["--soc", soc] if soc else [])]


@pytest.mark.parametrize("base", ["sdxl", "koala-700m", "koala-1b"])
@pytest.mark.parametrize("target", TARGETS)
def test_export_and_check(target: str, base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    given = (*chosen(target), "--base", base, "--untrained", "--rank", "64", "--out", str(out))
    exported, export_peak = measured("export.hypernet", *given)
    _, check_peak = measured("lorarar.commands.check", str(out), "--out", str(tmp_path / "rows.json"))
    peak = max(export_peak, check_peak)
    rows = json.loads((tmp_path / "rows.json").read_text())
    manifest = json.loads((out / "manifest.json").read_text())
    counts = {"qo": 0, "kv": 0}
    for group in manifest["layout"]["groups"]:
        counts[group["name"][:2]] += len(group["modules"])
    with capsys.disabled():
        print(f"\n{base} {target}: exported and checked in {exported:.0f} s, peak {peak:.2f} GiB")
    assert all(row["status"] == "passed" for row in rows)
    assert len(manifest["layout"]["groups"]) == 6
    assert counts["qo"] == counts["kv"] == {"sdxl": 280, "koala-700m": 84, "koala-1b": 120}[base]
    golden = sum(path.stat().st_size for path in (out / "golden").iterdir())
    assert golden <= 8 * 2**20
    assert peak <= PEAK_GIB
    assert exported <= SECONDS


# (base, target, precision) → seconds and GiB that the export with its check may take.
UNETS = {
    ("koala-700m", "onnx", "fp32"): (150, 6.5),
    ("koala-700m", "coreml", "fp16"): (240, 6.5),
    ("koala-700m", "coreai", "fp16"): (480, 6.5),
    ("koala-700m", "executorch", "w8"): (300, 6.0),
    ("koala-700m", "executorch", "fp32"): (360, 8.5),
    ("koala-1b", "onnx", "fp16"): (360, 8.0),
    ("sdxl", "onnx", "fp16"): (360, 10.0),  # PyTorch's fp32 weights alone, for the golden outputs, are 9.6
    ("sdxl", "coreml", "fp16"): (720, 12.0),
    ("sdxl", "coreai", "fp16"): (1800, 16.0),
}
CONVERTED = {("koala-700m", "coreai", "fp16"): (60, 4.65)}
"""The same without the check, where a runtime's time on a computer says nothing of the export's."""
STEP_SECONDS, STEP_GIB = 40, 6.0  # of one checked KOALA-700M step of 64×64 latents in the evaluator


@pytest.mark.parametrize(("base", "target", "precision"), UNETS)
def test_a_full_size_unet(
    base: str, target: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exports, checks, and writes what it took into build/measured, before it is compared with what is allowed."""
    given = [*chosen(target), "--base", base, "--precision", precision, "--untrained", "--resolution", "512"]
    row, check_gib = export_and_check("export.unet", given, (base, target, precision), tmp_path)
    PAGES["full-size"].record(row)
    with capsys.disabled():
        print(f"\n{row}; the check alone {check_gib:.1f} GiB")
    seconds, gib = UNETS[row.key]
    assert row.export_seconds <= seconds
    assert row.peak_gib <= gib
    if (base, target) == ("koala-700m", "coreml"):
        assert row.step_seconds <= STEP_SECONDS and check_gib <= STEP_GIB


@pytest.mark.parametrize(("base", "target", "precision"), CONVERTED)
def test_a_full_size_unet_is_converted(
    base: str, target: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*chosen(target), "--base", base, "--precision", precision, "--untrained", "--resolution", "512"]
    seconds, peak = measured("export.unet", *given, "--unchecked", "--out", str(tmp_path / "bundle"))
    shutil.rmtree(tmp_path / "bundle")
    with capsys.disabled():
        print(f"\n{base} {target} {precision}: converted in {seconds:.0f} s, peak {peak:.2f} GiB")
    most_seconds, most_gib = CONVERTED[base, target, precision]
    assert seconds <= most_seconds
    assert peak <= most_gib


@pytest.mark.parametrize(
    ("target", "precision"), [(name, precision) for name, target in TARGETS.items() for precision in target.precisions]
)
def test_every_precision_of_the_miniature(target: str, precision: str, tmp_path: Path) -> None:
    """Exports the whole pipeline and checks it; the row goes into build/measured."""
    given = [*chosen(target), "--precision", precision]
    row, _ = export_and_check("export.pipeline", given, ("miniature", target, precision), tmp_path)
    PAGES["precisions"].record(row)
    assert row.image_psnr_db is not None


def export_and_check(module: str, given: list[str], key: tuple[str, str, str], folder: Path) -> tuple[Row, float]:
    """Return a row of what an export took and what its check found, and the GiB of the check alone."""
    bundle, found = folder / "bundle", folder / "rows.json"
    seconds, peak = measured(module, *given, "--out", str(bundle))
    _, check_peak = measured("lorarar.commands.check", str(bundle), "--out", str(found))
    rows = json.loads(found.read_text())
    entry = json.loads((bundle / "manifest.json").read_text())["components"]["unet"]
    weights = [file.stat().st_size for file in (bundle / entry["file"]).glob("Data/com.apple.CoreML/weights/*")]
    if "coreml" in given and "--base" in given:
        assert lint_bundle(Bundle.open(bundle)) == []
    shutil.rmtree(bundle)  # gigabytes that pytest would keep
    assert all(row["status"] == "passed" for row in rows)
    assert all(size <= 1.01e9 for size in weights)
    unet, image = (
        [output["psnr_db"] for row in rows if row["component"] == name for output in row["outputs"]]
        for name in ("unet", "pipeline")
    )
    row = Row(
        *key,
        megabytes=round(entry["bytes"] / 1e6, 1),
        chunks=max(1, len(weights)),
        export_seconds=round(seconds, 1),
        peak_gib=round(peak, 2),
        psnr_db=round(min(unet), 1),
        image_psnr_db=round(min(image), 1) if image else None,
        image_guidance=guidance_in_words(GOLDEN_IMAGE["guidance"], GOLDEN_IMAGE["guidance_rescale"]) if image else "",
        step_seconds=round(next(row["run_s"] for row in rows if row["component"] == "unet"), 4),
        host=machine_name(),
    )
    return row, check_peak


IMAGE_GIB = 5.0  # of a KOALA-700M image in ONNX Runtime, fp32: two LoRAs of rank 64, stacked, merged, and a step


def test_an_image_of_koala_in_bounded_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a phone does with a large bundle, in one process: load, merge, draw; told and held to a bound."""
    bundle, loras = tmp_path / "bundle", [tmp_path / "content.safetensors", tmp_path / "style.safetensors"]
    given = ["--base", "koala-700m", "--untrained", "--rank", "64", "--resolution", "512", "--batch", "1"]
    measured("export.pipeline", "--target", "onnx", *given, "--out", str(bundle))
    for seed, path in enumerate(loras):
        named = ["--base", "koala-700m", "--adapt", "transformer", "--rank", "64", "--strength", "0.001"]
        measured("lorarar.commands.synthetic", *named, "--seed", str(seed), "--out", str(path))
    drawn = ["--prompt", "a sks dog", "--steps", "1", "--guidance", "1", "--out", str(tmp_path / "image.png")]
    given = [str(bundle), "--content", str(loras[0]), "--style", str(loras[1]), *drawn]
    seconds, peak = measured("lorarar.commands.generate", *given)
    unet = json.loads((bundle / "manifest.json").read_text())["components"]["unet"]["bytes"] / 2**30
    shutil.rmtree(bundle)  # gigabytes that pytest would keep
    with capsys.disabled():
        print(
            f"\nkoala-700m onnx fp32: stacked, merged, drawn in {seconds:.0f} s; peak {peak:.2f} GiB, UNet {unet:.2f}"
        )
    assert (tmp_path / "image.png").is_file() and peak <= IMAGE_GIB
