"""The native runner on a context for a Snapdragon's NPU, in Qualcomm's own emulator of it; no phone is part of this."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from devices.build_runner import build
from devices.executed import decibels, execute, refused
from devices.hostile import edit_manifest, set_at
from shared_bundles import MiniatureBundle

from benchmarks.record import check_record
from runtime_py.bundle import Bundle
from runtime_py.check import check_component

pytestmark = pytest.mark.devices


@pytest.fixture(scope="module")
def bundle(miniature_bundle: MiniatureBundle) -> Path:
    return miniature_bundle("hypernet", "qnn", "fp16")


@pytest.fixture(scope="module")
def runner(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner with the libraries beside it, as on a phone: ONNX Runtime's, its provider, and QNN's."""
    import onnxruntime
    import onnxruntime_qnn

    program = build("x86-64", tmp_path_factory.mktemp("runner"))
    package = Path(onnxruntime_qnn.__file__).parent
    for library in (*package.glob("*.so"), *package.with_name("onnxruntime_qnn.libs").iterdir()):
        (program.parent / library.name).symlink_to(library)
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (program.parent / "libonnxruntime.so").symlink_to(library)
    return program


def run(runner: Path, bundle: Path, output: Path, **environment: str) -> tuple[int, str, str]:
    """As a phone's shell runs it (`benchmarks.devices.adb_run`)."""
    options = ("--output", output, "--kind", "emulated")
    return execute(runner, bundle, *options, LD_LIBRARY_PATH=str(runner.parent), **environment)


def test_a_context_is_what_python_says(runner: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    code, _, said = run(runner, bundle, out)  # the emulator prints a line of its own
    assert code == 0, said
    record = check_record(json.loads(out.read_text()), str(out))
    (row,) = check_component(Bundle.open(bundle), "hypernet")
    ran = [record["runtime"][name] for name in ("name", "backend", "compute_unit")]
    assert ran == ["onnxruntime", "QNNExecutionProvider", "npu"]
    assert decibels(record) == pytest.approx(row.psnr_db, abs=0.1)
    assert record["parity"]["status"] == "passed" and record["bundle"]["target"] == "qnn"


def test_another_chips_context_is_refused(runner: Path, bundle: Path, tmp_path: Path) -> None:
    """The system's properties say what chip it is; here a getprop of ours does."""
    getprop = tmp_path / "bin" / "getprop"
    getprop.parent.mkdir()
    output = tmp_path / "record.json"
    for chip, taken in (("SM8550", False), ("SM8650", True)):
        getprop.write_text(f"#!/bin/sh\necho '[ro.soc.model]: [{chip}]'\n")
        getprop.chmod(0o755)
        path = f"{getprop.parent}:{os.environ['PATH']}"
        found = run(runner, bundle, output, PATH=path)
        if taken:
            assert found[0] == 0, found[2]
        else:
            refused(
                2, "compiled for sm8650, and this device's chip is sm8550; export it with --soc sm8550", found, output
            )


def test_without_the_provider_it_is_one_sentence(runner: Path, bundle: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(runner, tmp_path / "runner"))
    output = tmp_path / "record.json"
    found = execute(alone, bundle, "--library", (runner.parent / "libonnxruntime.so").resolve(), "--output", output)
    refused(3, "ONNX Runtime can't take Qualcomm's provider", found, output)


def test_a_chip_that_is_no_text_is_refused(runner: Path, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    edit_manifest(copy, set_at("/", "soc", "name", to=8650))
    output = tmp_path / "record.json"
    refused(2, "soc.name", run(runner, copy, output), output)
