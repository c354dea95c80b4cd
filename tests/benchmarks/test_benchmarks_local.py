"""Benchmarks on this computer: a record of a component, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.device import main as device_command
from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.local import Local, ThisComputer
from benchmarks.local_run import main
from benchmarks.record import check_record, read_records
from lorarar.errors import FailedCheck, InputError
from runtime_py.bundle import MANIFEST, Bundle, tree_sha256
from runtime_py.check import check_component

OPTIONS = MeasureOptions(runs=3, warmup=2, threads=1)


def test_a_record_of_this_computer(bundle_folders: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    (device,) = Local().open("", OPTIONS)
    said: list[str] = []
    record = check_record(device.measure(bundle, "merger", OPTIONS, Watch(said.append)), "record")
    entry = bundle.manifest["components"]["merger"]
    assert (record["kind"], record["runner"], record["component"]) == ("measured", "python", "merger")
    assert record["artifact"] == {key: entry[key] for key in ("file", "bytes", "sha256")}
    assert record["bundle"]["manifest_sha256"] == tree_sha256(bundle.path / MANIFEST)[1]
    assert record["runs"]["n"] == 3 and record["runs"]["warmup_count"] == 2
    assert record["runtime"]["name"] == "onnxruntime" and record["runtime"]["threads"] == 1
    assert record["parity"]["psnr_db"] == pytest.approx(check_component(bundle, "merger")[0].psnr_db, abs=0.5)
    assert record["memory"]["peak_bytes"] > entry["bytes"]
    assert 0 < record["load"]["warm_s"] < record["load"]["cold_s"] * 5
    assert said == ["merger: running"]


def test_the_peak_is_the_programs_own() -> None:
    """And not that of whoever started it."""
    ballast = np.ones(400 * 2**20, np.uint8)
    code = "from benchmarks.processes import peak_bytes; print(peak_bytes())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 * 2**20 < int(ran.stdout) < ballast.nbytes / 4


def test_a_run_whose_parity_fails_is_no_result(
    bundle_folders: dict[tuple[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = bundle_folders["onnx", "fp32"], tmp_path / "bundle"
    (folder / "golden").mkdir(parents=True)
    manifest = json.loads((source / MANIFEST).read_text())
    golden = manifest["components"]["merger"]["golden"]
    (folder / "merger.onnx").write_bytes((source / "merger.onnx").read_bytes())
    tensors = load_file(source / golden["file"])
    key = next(name for name in tensors if name.endswith(".values"))
    tensors[key] = (tensors[key] * np.float32(1.001)).astype(np.float32)
    save_file(tensors, folder / golden["file"])
    golden["bytes"], golden["sha256"] = tree_sha256(folder / golden["file"])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FailedCheck, match=rf"merger differs from PyTorch in {key.removesuffix('.values')} .*no result"):
        main([str(folder), "merger", "--runs", "1", "--warmup", "1"])
    assert capsys.readouterr().out == ""
    with pytest.raises(DeviceFailed, match=r"^merger differs from PyTorch in .*no result$"):
        ThisComputer().measure(Bundle.open(folder), "merger", OPTIONS, Watch())


def test_what_can_not_be_measured_is_told(bundle_folders: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(bundle_folders["coreml", "fp16"])
    with pytest.raises(DeviceFailed, match="a Core ML bundle is timed on Apple systems only"):
        ThisComputer().measure(bundle, "merger", OPTIONS, Watch())
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    with pytest.raises(DeviceFailed, match=r"over 0\.01 s and was stopped; give a longer `timeout_s`"):
        ThisComputer().measure(bundle, "merger", MeasureOptions(timeout_s=0.01), Watch())
    stop = threading.Event()
    stop.set()
    with pytest.raises(DeviceFailed, match="interrupted"):
        ThisComputer().measure(bundle, "merger", OPTIONS, Watch(stop=stop))
    with pytest.raises(InputError, match="--runs is 0"):
        main([str(bundle.path), "merger", "--runs", "0"])


def test_no_warm_up_at_all(bundle_folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    given = ["--device", "local", "--bundle", str(bundle_folders["onnx", "fp32"]), "--runs", "2", "--warmup", "0"]
    assert device_command([*given, "--out", str(tmp_path / "r.json")]) == 0
    (record,) = read_records(tmp_path / "r.json")
    assert (record["runs"]["n"], record["runs"]["warmup_count"], record["runs"]["first_s"]) == (2, 0, None)


def test_there_is_one_local_device() -> None:
    with pytest.raises(InputError, match="there is one local device"):
        Local().open("other", OPTIONS)
    (found,) = Local().describe()
    assert (found.name, found.state) == ("local", "ready") and found.abi
