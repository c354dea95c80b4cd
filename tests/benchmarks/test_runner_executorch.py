"""The native runner on the C++ libraries of ExecuTorch's wheel: equal to Python here, and right on arm64."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from devices.build_runner import ARM64_ROOT, SANITIZED, build_with_executorch
from devices.executed import BundleOf, check_delta, decibels, execute, refused
from devices.hostile import edit_manifest, garbage
from shared_bundles import MiniatureBundle, SharedUNets

from benchmarks.record import check_record
from runtime_py.bundle import Bundle
from runtime_py.check import check_component

pytestmark = pytest.mark.devices

CASES = [("hypernet", "fp32"), ("hypernet", "fp16"), ("unet", "fp32"), ("unet", "w8")]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with_executorch("x86-64", tmp_path_factory.mktemp("runner"), *SANITIZED)


@pytest.fixture(scope="module")
def arm64_runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_with_executorch("arm64", tmp_path_factory.mktemp("runner-arm64"))


@pytest.fixture(scope="module")
def bundles(miniature_bundle: MiniatureBundle, shared_unets: SharedUNets) -> BundleOf:
    """The miniature's hypernetwork or a shallow UNet for ExecuTorch."""

    def give(component: str, precision: str) -> Path:
        if component == "unet":
            return shared_unets["executorch", precision].path
        return miniature_bundle(component, "executorch", precision)

    return give


@pytest.mark.parametrize(("component", "precision"), CASES)
def test_a_record_says_what_python_says(runner: Path, bundles: BundleOf, component: str, precision: str) -> None:
    folder = bundles(component, precision)
    code, printed, said = execute(runner, folder, "--component", component, "--threads", 1, "--warmup", 1)
    assert code == 0, said
    record = check_record(json.loads(printed), "standard output")
    (row,) = check_component(Bundle.open(folder), component)
    assert decibels(record) == pytest.approx(row.psnr_db, abs=0.1)
    assert row.worst is not None and record["parity"]["max_error"] == pytest.approx(row.worst.max_error, rel=0.05)
    assert (record["parity"]["status"], record["parity"]["within_tolerance"]) == ("passed", True)
    check_delta(record["parity"]["delta"], row.delta)
    runtime = record["runtime"]
    assert (runtime["name"], runtime["threads"]) == ("executorch", 1)
    assert runtime["version"].partition("+")[0] == version("executorch").partition("+")[0]
    assert "XnnpackBackend" in runtime["backend"]


def test_a_damaged_program_is_named(runner: Path, bundles: BundleOf, tmp_path: Path) -> None:
    bundle = shutil.copytree(bundles("hypernet", "fp32"), tmp_path / "bundle")
    edit_manifest(bundle, garbage)
    output = tmp_path / "record.json"
    refused(3, "ExecuTorch can't load", execute(runner, bundle, "--output", output), output)


@pytest.mark.parametrize(("component", "precision"), CASES)
def test_arm64_under_emulation(arm64_runner: Path, bundles: BundleOf, component: str, precision: str) -> None:
    emulator = ("qemu-aarch64", "-cpu", "cortex-a76", "-L", str(ARM64_ROOT))
    options = ("--component", component, "--kind", "emulated", "--warmup", 1)
    code, printed, said = execute(arm64_runner, bundles(component, precision), *options, before=emulator)
    assert code == 0, said
    record = check_record(json.loads(printed), "arm64")
    assert (record["kind"], record["device"]["abi"]) == ("emulated", "aarch64")
    assert (record["parity"]["status"], record["parity"]["within_tolerance"]) == ("passed", True)
    assert (record["parity"]["delta"] is not None) == (component == "unet")
