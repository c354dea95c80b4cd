"""Benchmarks on this computer: a record of a component, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from bundle_mutations import with_golden
from devices.executed import decibels
from shared_bundles import SharedUNets

from benchmarks.device import main as device_command
from benchmarks.devices import local
from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.local import Local, ThisComputer
from benchmarks.local_run import main
from benchmarks.record import check_record, read_records
from lorarar.errors import FailedCheck, InputError
from runtime_py.bundle import Bundle
from runtime_py.check import check_component
from runtime_py.hashes import tree_sha256
from runtime_py.manifest import MANIFEST

OPTIONS = MeasureOptions(runs=3, warmup=2, threads=1)


def test_a_record_of_this_computer(bundle_folders: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    (device,) = Local().open("", OPTIONS)
    said: list[str] = []
    record = check_record(device.measure(bundle, "hypernet", OPTIONS, Watch(said.append)), "record")
    entry = bundle.manifest["components"]["hypernet"]
    assert (record["kind"], record["runner"], record["component"]) == ("measured", "python", "hypernet")
    assert record["artifact"] == {key: entry[key] for key in ("file", "bytes", "sha256")}
    assert record["bundle"]["manifest_sha256"] == tree_sha256(bundle.path / MANIFEST)[1]
    assert record["runs"]["n"] == 3 and record["runs"]["warmup_count"] == 2
    assert record["runtime"]["name"] == "onnxruntime" and record["runtime"]["threads"] == 1
    assert decibels(record) == pytest.approx(check_component(bundle, "hypernet")[0].psnr_db, abs=0.5)
    assert record["parity"]["status"] == "passed"
    assert record["memory"]["peak_bytes"] > entry["bytes"]
    assert 0 < record["load"]["warm_s"] < record["load"]["cold_s"] * 5
    assert said == ["hypernet: running"]


def test_the_runs_are_those_after_the_warmup(
    bundle_folders: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    took = iter([100.0, 50.0, 1.0, 2.0, 3.0])  # seconds of each run, the first two of them the warm-up
    clock = {"now": 0.0, "is_start": True}

    def perf_counter() -> float:
        clock["now"] += 0.0 if clock["is_start"] else next(took)
        clock["is_start"] = not clock["is_start"]
        return clock["now"]

    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    monkeypatch.setattr(local, "timed", lambda seconds, key: nullcontext(seconds.update({key: 1.0})))
    monkeypatch.setattr(local.time, "perf_counter", perf_counter)
    found = local.measure_component(bundle, "hypernet", OPTIONS)["runs"]
    assert (found["first_s"], found["samples_s"]) == (100.0, [1.0, 2.0, 3.0])


def test_the_peak_is_the_programs_own() -> None:
    """And not that of whoever started it."""
    ballast = np.ones(400 * 2**20, np.uint8)
    code = "from benchmarks.processes import peak_bytes; print(peak_bytes())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 * 2**20 < int(ran.stdout) < ballast.nbytes / 4


@pytest.mark.parametrize(("factor", "status"), [(1.00002, "passed"), (1.01, "below")])
def test_a_run_out_of_tolerance_is_a_record_that_says_so(
    bundle_folders: dict[tuple[str, str], Path], tmp_path: Path, factor: float, status: str
) -> None:
    folder = with_golden(bundle_folders["onnx", "fp32"], tmp_path / "b", "hypernet", {".values": factor})
    record = ThisComputer().measure(Bundle.open(folder), "hypernet", OPTIONS, Watch())
    assert (record["parity"]["status"], record["parity"]["within_tolerance"]) == (status, False)
    assert record["runs"]["n"] == OPTIONS.runs and record["parity"]["delta"] is None


def test_a_run_that_is_not_finite_or_of_another_size_is_no_result(
    bundle_folders: dict[tuple[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = with_golden(bundle_folders["onnx", "fp32"], tmp_path / "b", "hypernet", {".mean": np.inf})
    said = r"hypernet's coefficients_\w+ holds values that are not finite, .* no result$"
    with pytest.raises(FailedCheck, match=f"^{said}"):
        main([str(folder), "hypernet", "--runs", "1", "--warmup", "1"])
    assert capsys.readouterr().out == ""
    with pytest.raises(DeviceFailed, match=said):
        ThisComputer().measure(Bundle.open(folder), "hypernet", OPTIONS, Watch())


def test_the_record_of_a_unet_has_what_the_loras_change(shared_unets: SharedUNets, tmp_path: Path) -> None:
    """One more run with coefficients of zero tells it, and is none of the samples."""
    bundle = shared_unets["onnx", "fp32"]
    record = ThisComputer().measure(bundle, "unet", OPTIONS, Watch())
    (row,) = check_component(bundle, "unet")
    assert row.delta is not None and record["parity"]["delta"]["gain"] == pytest.approx(row.delta.gain, abs=1e-6)
    assert record["parity"]["delta"]["cosine"] == pytest.approx(row.delta.cosine, abs=1e-9)
    assert record["parity"]["delta"]["snr_db"] == pytest.approx(row.delta.snr_db, abs=0.5)
    assert record["parity"]["within_tolerance"] and record["runs"]["n"] == OPTIONS.runs
    other = with_golden(bundle.path, tmp_path / "b", "unet", {".without": 1.5})
    parity = ThisComputer().measure(Bundle.open(other), "unet", OPTIONS, Watch())["parity"]
    assert (parity["status"], parity["within_tolerance"]) == ("passed", False)
    assert parity["psnr_db"] == pytest.approx(record["parity"]["psnr_db"], abs=0.5)


def test_what_can_not_be_measured_is_told(bundle_folders: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(bundle_folders["coreml", "fp16"])
    with pytest.raises(DeviceFailed, match="a coreml bundle is timed on Apple systems only"):
        ThisComputer().measure(bundle, "hypernet", OPTIONS, Watch())
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    with pytest.raises(DeviceFailed, match=r"over 0\.01 s and was stopped; give a longer `timeout_s`"):
        ThisComputer().measure(bundle, "hypernet", MeasureOptions(timeout_s=0.01), Watch())
    stop = threading.Event()
    stop.set()
    with pytest.raises(DeviceFailed, match="interrupted"):
        ThisComputer().measure(bundle, "hypernet", OPTIONS, Watch(stop=stop))
    with pytest.raises(InputError, match="--runs is 0"):
        main([str(bundle.path), "hypernet", "--runs", "0"])


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
