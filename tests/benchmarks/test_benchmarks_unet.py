"""The UNet benchmark, on a base of toy size."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import timing, unet_times
from benchmarks import unet as command
from benchmarks.command import measure
from benchmarks.timing import Samples
from benchmarks.unet_times import costs
from lorarar.commands import synthetic
from lorarar.commands.export import main as export
from lorarar.errors import InputError

KINDS = ("fused", "attention", "transformer")


def test_costs_are_ratios_of_medians() -> None:
    samples = {
        "sgemm": Samples((1.0,)),
        "onnx fp32 fused": Samples((1.0, 1.0, 1.0)),
        "onnx fp32 attention": Samples((1.0, 1.1, 9.0)),
        "onnx fp32 transformer": Samples((1.12,)),
        "executorch w8 fused": Samples((1.0,)),
        "executorch w8 transformer": Samples((2.0,)),
    }
    attention, whole, other = costs(samples)
    said = {"case": "onnx fp32 attention", "cost_percent": pytest.approx(10)}
    assert attention == {**said, "limit_percent": 8.0, "passed": False}
    assert (whole["limit_percent"], whole["passed"]) == (15.0, True)
    assert other == {"case": "executorch w8 transformer", "cost_percent": pytest.approx(100)}


def test_the_command(
    shallow_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes of their own, which a refusal below starts, would import the toolchains three times.
    commands = {
        "export.unet": lambda *given: export(["unet", *given]),
        "lorarar.commands.synthetic": lambda *given: synthetic.main(given),
    }
    monkeypatch.setattr(unet_times, "run_module", lambda module, *given: commands[module](*given))
    monkeypatch.setattr(timing, "_SIZES", (512,))
    bundles, out = tmp_path / "bundles", tmp_path / "unet.json"
    given = ["--base", str(shallow_pipeline), "--rank", "3", "--target", "onnx", "--runs", "2", "--threads", "1"]
    assert command.main([*given, "--bundles", str(bundles), "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document
    assert document["stacked_rank"] == 6 and document["sample"] == [1, 4, 8, 8]
    assert [case["name"] for case in document["cases"]] == [f"onnx fp32 {kind}" for kind in KINDS]
    for case, kind in zip(document["cases"], KINDS, strict=True):
        manifest = json.loads((bundles / f"{kind}-onnx-fp32" / "manifest.json").read_text())
        entry = manifest["components"]["unet"]
        assert (case["sha256"], case["bytes"]) == (entry["sha256"], entry["bytes"])
        parts = {t["name"].split("_")[1] for t in entry["inputs"] if t["name"].startswith("adapter_")}
        assert parts == {"fused": set(), "attention": {"qo", "kv"}, "transformer": {"qo", "kv", "ff", "proj"}}[kind]
        assert len(case["seconds"]) == 2 and 0 < case["best_s"] <= case["median_s"]
    made = {path: path.stat().st_mtime_ns for path in bundles.rglob("manifest.json")}
    assert command.main([*given, "--bundles", str(bundles)]) == 0
    assert made == {path: path.stat().st_mtime_ns for path in bundles.rglob("manifest.json")}
    note = bundles / unet_times.OPTIONS
    note.rename(tmp_path / "kept.json")
    with pytest.raises(InputError, match=r"unet\.json: no such file.*choose another folder of --bundles"):
        command.main([*given, "--bundles", str(bundles)])
    (tmp_path / "kept.json").rename(note)
    config = shallow_pipeline / "unet" / "config.json"
    with monkeypatch.context() as changed:
        changed.setattr(unet_times, "toolchain_versions", lambda: {"onnx": "0"})
        with pytest.raises(InputError, match="exported with other versions of the toolchains"):
            command.main([*given, "--bundles", str(bundles)])
    before = config.stat()
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(InputError, match="exported with other files of the base"):
        command.main([*given, "--bundles", str(bundles)])
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    for kept in (config, note, next(bundles.rglob("manifest.json"))):
        with pytest.raises(InputError, match="would overwrite the input"):
            command.main([*given, "--bundles", str(bundles), "--out", str(kept)])
    given[given.index("--rank") + 1] = "2"
    with pytest.raises(InputError, match="exported with --rank 3; choose another folder of --bundles"):
        command.main([*given, "--bundles", str(bundles)])


def test_the_shipped_base_is_noticed_too() -> None:
    """A miniature that was built anew has other files under the same name."""
    found = unet_times._files_of("miniature")
    assert {Path(path).name for path, *_ in found} >= {"config.json", "diffusion_pytorch_model.safetensors"}
    assert {Path(path).parent.name for path, *_ in found} == {"unet"}


def test_a_stopped_export_leaves_how_it_was_asked_for(
    shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would take its bundles for those of other options."""

    def stopped(_module: str, *given: str) -> None:
        bundle = Path(given[given.index("--out") + 1]) if "--out" in given else None
        if bundle is not None:
            bundle.mkdir(parents=True)
            (bundle / "manifest.json").write_text("{}")
            raise KeyboardInterrupt

    monkeypatch.setattr(unet_times, "run_module", stopped)
    given = ["--base", str(shallow_pipeline), "--target", "onnx", "--runs", "1", "--bundles", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        command.main([*given, "--rank", "3"])
    with pytest.raises(InputError, match="exported with --rank 3"):
        command.main([*given, "--rank", "2"])


def test_a_result_is_kept_before_it_is_shown(tmp_path: Path) -> None:
    """A closed pipe, as of `| head`, ends what is shown."""

    def closed(_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        measure(lambda _: {"kind": "unet"}, closed, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"kind": "unet"}


def test_an_equal_output_has_no_decibels(capsys: pytest.CaptureFixture[str]) -> None:
    case = {"name": "onnx fp32 fused", "median_s": 1.0, "best_s": 0.5, "bytes": 1, "psnr_db": None}
    command._print({"cases": [case], "sample": [1], "base": "b", "costs": [], "steadiness": 1.0})
    assert "onnx fp32 fused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--target", "coreml"], "--target is 'coreml'; valid are onnx, executorch"),
        (["--precision", "w6"], "--precision is 'w6'.*fp32, fp16, w8, w4"),
        (["--runs", "0"], "--runs is 0"),
        (["--target", ""], "--target is empty; give some of onnx, executorch"),
        (["--precision", ""], "--precision is empty; give one such as fp32"),
        (["--base", "sdxl", "--target", "onnx"], "python -m export.unet --target onnx failed: the weights of sdxl"),
    ],
)
def test_bad_input_is_told(given: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        command.main([*given, "--bundles", str(tmp_path)])
