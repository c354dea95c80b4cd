"""Where a Core ML program overflows in fp16."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lorarar.commands.overflow import main
from lorarar.errors import InputError
from runtime_py.bundle import Bundle
from runtime_py.mil import OpTrace
from runtime_py.overflow import LARGEST_HALF, overflow, trace_component, worth_a_look

Folders = dict[tuple[str, str], Path]


def result(name: str, largest: float, infinities: int = 0, nans: int = 0) -> OpTrace:
    """A record whose largest value is a negative one."""
    return OpTrace("mul", name, "float16", 0, -largest, largest / 2, infinities, nans)


def test_what_is_not_finite_comes_first_then_the_largest() -> None:
    results = [
        result("a", 1.0),
        result("b", 5.0, infinities=2),
        result("c", 3.0),
        result("d", 2.0, nans=1),
        result("e", 4.0),
    ]
    assert [each.output for each in worth_a_look(results, 2)] == ["b", "d", "e", "c"]


def test_a_sound_program(bundle_folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundle_folders["coreml", "fp16"]
    assert main([str(folder), "--top", "3"]) == 0
    shown = capsys.readouterr().out
    assert "nothing overflows" in shown and shown.count("hypernet") == 3
    results = trace_component(Bundle.open(folder), "hypernet")
    assert len(results) > 20 and 0 < max(each.largest for each in results) < LARGEST_HALF


def test_a_program_that_overflows(bundle_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(bundle_folders["coreml", "fp16"], tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["components"]["hypernet"]["golden"]["inputs"]["adapter_qo_32x32_up"]["scale"] = LARGEST_HALF
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(folder), "--component", "hypernet"]) == 1
    assert "operations overflow" in capsys.readouterr().out


def test_bad_input_is_told(bundle_folders: Folders) -> None:
    with pytest.raises(InputError, match="only Core ML programs can be traced"):
        main([str(bundle_folders["onnx", "fp32"])])
    with pytest.raises(InputError, match="has no unet, only hypernet"):
        main([str(bundle_folders["coreml", "fp16"]), "--component", "unet"])
    with pytest.raises(InputError, match="--top is 0; give a whole number of 1 or more"):
        main([str(bundle_folders["coreml", "fp16"]), "--top", "0"])


def test_headroom() -> None:
    """The first of its faults, in running order; what is computed in fp32 may be as large as it likes."""
    assert overflow([result("a", 100.0), result("b", 0.5 * LARGEST_HALF)]) is None
    assert "mul 'b' reaches 40000" in str(overflow([result("a", 1.0), result("b", 4e4), result("c", 1.0, 1)]))
    assert "mul 'b' is not finite" in str(overflow([result("a", 1.0), result("b", 1.0, 0, 2), result("c", 5e4)]))
    assert overflow([replace(result("a", 1e9), dtype="float32")]) is None
