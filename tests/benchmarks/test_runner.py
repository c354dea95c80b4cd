"""The native runner on bundles of this toolkit: equal to Python where all is well, one sentence where it is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices.build_runner import ARM64_ROOT, SANITIZED, build, onnxruntime_arm64
from devices.executed import BundleOf, check_delta, decibels, execute, refused
from devices.hostile import (
    GOLDEN,
    HOSTILE,
    Edit,
    cut_a_statistic,
    edit_golden,
    edit_manifest,
    garbage,
    hypernet,
    leave,
    out_of,
    poison,
    scale_values,
    set_at,
    state,
)
from ios.swift import onnxruntime_library
from shared_bundles import MiniatureBundle, SharedUNets

from benchmarks.record import PERCENTILES, check_record
from runtime_py.backends.onnx import WIDEN_AT_LOAD, disabled_optimizers
from runtime_py.bundle import Bundle
from runtime_py.check import check_component
from runtime_py.component import ONNX_MODEL, Component, TensorSpec
from runtime_py.golden import generate
from runtime_py.hashes import tree_sha256
from runtime_py.parity import Tolerance

pytestmark = pytest.mark.devices

EMULATED = {"QEMU_CPU": "cortex-a76"}
CASES = [("hypernet", "fp32"), ("hypernet", "fp16"), ("unet", "fp32"), ("unet", "fp16")]


@pytest.fixture(scope="session")
def library() -> Path:
    return onnxruntime_library()


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("x86-64", tmp_path_factory.mktemp("runner"), *SANITIZED, "-DLORARAR_PROBE=ON")


@pytest.fixture(scope="session")
def bundles(miniature_bundle: MiniatureBundle, shared_unets: SharedUNets) -> BundleOf:
    """The miniature's hypernetwork or a shallow UNet for ONNX Runtime."""

    def give(component: str, precision: str) -> Path:
        if component == "unet":
            return shared_unets["onnx", precision].path
        return miniature_bundle(component, "onnx", precision)

    return give


@pytest.fixture
def bundle(bundles: BundleOf, tmp_path: Path) -> Path:
    """A copy of the fp32 hypernetwork's bundle, to be damaged."""
    return shutil.copytree(bundles("hypernet", "fp32"), tmp_path / "bundle")


# --- where all is well


def test_the_runtime_tells_nobody(
    runner: Path, library: Path, bundles: BundleOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its telemetry would leave a session file."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    code, _, said = execute(runner, bundles("hypernet", "fp32"), "--library", library, TMPDIR=str(tmp_path))
    assert code == 0, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("component", "precision"), CASES)
def test_a_record_is_valid_and_says_what_python_says(
    runner: Path, library: Path, bundles: BundleOf, tmp_path: Path, component: str, precision: str
) -> None:
    folder = bundles(component, precision)
    out = tmp_path / "record.json"
    options = ("--component", component, "--library", library, "--threads", 1, "--warmup", 2, "--output", out)
    code, printed, said = execute(runner, folder, *options)
    assert (code, printed) == (0, ""), said
    record = check_record(json.loads(out.read_text()), str(out))
    opened = Bundle.open(folder)
    (row,) = check_component(opened, component)
    assert decibels(record) == pytest.approx(row.psnr_db, abs=0.1)
    assert row.worst is not None and record["parity"]["max_error"] == pytest.approx(row.worst.max_error, rel=0.05)
    assert (record["parity"]["status"], record["parity"]["within_tolerance"]) == ("passed", True)
    check_delta(record["parity"]["delta"], row.delta)
    entry = opened.component(component).entry
    assert record["artifact"] == {key: entry[key] for key in ("file", "bytes", "sha256")}
    assert record["bundle"]["manifest_sha256"] == tree_sha256(folder / "manifest.json")[1]
    assert record["bundle"]["precision"] == precision and record["component"] == component
    assert record["runtime"]["name"] == "onnxruntime" and record["runtime"]["version"] == row.runtime_version
    assert record["runtime"]["threads"] == 1 and record["runner"] == "native"
    assert record["runs"]["n"] == 3 and record["runs"]["warmup_count"] == 2 and record["runs"]["first_s"] > 0
    assert record["memory"]["measure"] == "rss" and record["memory"]["peak_bytes"] > entry["bytes"]
    assert record["device"]["os"] == "linux" and record["device"]["ram_bytes"] > 0
    stages = ["loading, cold", "loading, warm", "warming up", "timing 3 runs", "comparing with PyTorch"]
    assert said.splitlines() == [f"opening {folder}", *stages]


def test_the_record_goes_to_standard_output_alone(runner: Path, library: Path, bundle: Path) -> None:
    code, printed, said = execute(runner, bundle, "--library", library, "--warmup", 0)
    record = check_record(json.loads(printed), "standard output")
    assert code == 0 and record["runs"]["first_s"] is None and record["runtime"]["threads"] is None, said


def test_the_library_is_found_beside_the_program(runner: Path, library: Path, bundle: Path, tmp_path: Path) -> None:
    program = shutil.copy(runner, tmp_path)
    (tmp_path / "libonnxruntime.so").symlink_to(library)
    assert execute(program, bundle)[0] == 0


@pytest.mark.parametrize(("environment", "option", "kind"), [({}, [], "measured"), (EMULATED, [], "emulated")])
def test_the_kind_of_a_record(
    runner: Path, library: Path, bundle: Path, environment: dict[str, str], option: list[str], kind: str
) -> None:
    code, printed, said = execute(runner, bundle, "--library", library, *option, **environment)
    assert code == 0 and json.loads(printed)["kind"] == kind, said


def test_an_artifact_that_is_a_folder(runner: Path, library: Path, bundle: Path, tmp_path: Path) -> None:
    def edit(manifest: dict[str, Any], folder: Path) -> None:
        artifact = folder / "hypernet"
        (artifact / "weights").mkdir(parents=True)
        (folder / hypernet(manifest)["file"]).replace(artifact / ONNX_MODEL)
        (artifact / "weights" / "a.bin").write_bytes(b"a")
        (artifact / "weights.bin").write_bytes(b"b")  # sorts before the folder's: by bytes, not by parts
        hypernet(manifest)["file"] = "hypernet"
        state(hypernet(manifest), artifact)

    edit_manifest(bundle, edit)
    code, printed, said = execute(runner, bundle, "--library", library)
    assert code == 0, said
    assert json.loads(printed)["artifact"]["file"] == "hypernet"


# --- where it is not


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bundles_are_refused(runner: Path, library: Path, bundle: Path, tmp_path: Path, name: str) -> None:
    edit, said = HOSTILE[name]
    edit_manifest(bundle, edit)
    output = tmp_path / "out" / "record.json"
    output.parent.mkdir()
    refused(2, said, execute(runner, bundle, "--library", library, "--output", output), output)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"schema_version": 1', "\xff", "[" * 10**6, '{"a": 1e999}'])
def test_damaged_manifests_are_refused(runner: Path, bundle: Path, tmp_path: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="latin-1")
    refused(2, "", execute(runner, bundle, "--output", tmp_path / "r.json"), tmp_path / "r.json")


def test_every_cut_of_a_manifest_is_refused(runner: Path, bundle: Path, tmp_path: Path) -> None:
    whole = (bundle / "manifest.json").read_text()
    for length in range(0, len(whole) - 1, len(whole) // 20):
        (bundle / "manifest.json").write_text(whole[:length])
        found = execute(runner, bundle, "--output", tmp_path / "r.json")
        refused(2, "not valid JSON", found, tmp_path / "r.json")


@pytest.mark.parametrize("name", GOLDEN)
def test_hostile_golden_files_are_refused(runner: Path, library: Path, bundle: Path, tmp_path: Path, name: str) -> None:
    data, said = GOLDEN[name]

    def edit(manifest: dict[str, Any], folder: Path) -> None:
        golden = hypernet(manifest)["golden"]
        (folder / golden["file"]).write_bytes(data)
        state(golden, folder / golden["file"])

    edit_manifest(bundle, edit)
    output = tmp_path / "r.json"
    refused(2, said, execute(runner, bundle, "--library", library, "--output", output), output)


@pytest.mark.parametrize("edit", [poison(float("nan")), poison(float("inf")), cut_a_statistic])
def test_a_run_that_is_not_finite_or_of_another_size_is_no_result(
    runner: Path, library: Path, bundle: Path, tmp_path: Path, edit: Edit
) -> None:
    edit_manifest(bundle, edit)
    output = tmp_path / "r.json"
    found = execute(runner, bundle, "--library", library, "--output", output)
    refused(1, "holds values that are not finite, or is not of the golden size", found, output)
    assert "hypernet's coefficients_" in found[2]


@pytest.mark.parametrize(
    ("edit", "status"),
    [
        (out_of("psnr_db", 500), "passed"),
        (out_of("max_error", 1e-12), "passed"),
        (set_at("tolerance", "delta", to={"gain_error": 0.1, "cosine": 0.9}), "passed"),  # and there is no delta
        (poison(9.0), "passed"),  # a mean is none of the values that the PSNR is of
        (scale_values(1.01), "below"),
    ],
)
def test_a_run_out_of_tolerance_is_a_record_that_says_so(
    runner: Path, library: Path, bundle: Path, edit: Edit, status: str
) -> None:
    edit_manifest(bundle, edit)
    code, printed, said = execute(runner, bundle, "--library", library)
    record = check_record(json.loads(printed), "standard output")
    assert code == 0 and record["runs"]["n"] == 3, said
    assert (record["parity"]["status"], record["parity"]["within_tolerance"]) == (status, False)


def test_the_delta_is_held_against_its_tolerance(
    runner: Path, library: Path, bundles: BundleOf, tmp_path: Path
) -> None:
    """Two thirds of the LoRAs' effect are lost, where the output as a whole is right."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        with_loras = tensors["noise_pred.values"]
        tensors["noise_pred.without"] = with_loras - 3 * (with_loras - tensors["noise_pred.without"])

    bundle = shutil.copytree(bundles("unet", "fp32"), tmp_path / "bundle")
    edit_manifest(bundle, edit_golden("unet", change))
    code, printed, said = execute(runner, bundle, "--component", "unet", "--library", library)
    assert code == 0, said
    parity = check_record(json.loads(printed), "standard output")["parity"]
    assert (parity["status"], parity["within_tolerance"]) == ("passed", False)
    (row,) = check_component(Bundle.open(bundle), "unet")
    assert parity["delta"]["gain"] == pytest.approx(1 / 3, abs=1e-3)
    check_delta(parity["delta"], row.delta)


@pytest.mark.parametrize(
    ("length", "said"), [(None, "no noise_pred.without"), (7, "without them at not as many positions")]
)
def test_a_golden_file_without_the_values_of_the_base_is_refused(
    runner: Path, library: Path, bundles: BundleOf, tmp_path: Path, length: int | None, said: str
) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        without = tensors.pop("noise_pred.without")
        if length is not None:
            tensors["noise_pred.without"] = without[:length].copy()

    bundle = shutil.copytree(bundles("unet", "fp32"), tmp_path / "bundle")
    edit_manifest(bundle, edit_golden("unet", change))
    output = tmp_path / "r.json"
    found = execute(runner, bundle, "--component", "unet", "--library", library, "--output", output)
    refused(2, said, found, output)


@pytest.mark.parametrize(
    ("edit", "library_name", "said"),
    [
        (leave, "none.so", "library can't be loaded"),
        (leave, "libc.so.6", "is not ONNX Runtime's"),
        (garbage, "", "ONNX Runtime can't load"),
    ],
)
def test_a_runtime_that_fails_is_named(
    runner: Path, library: Path, bundle: Path, tmp_path: Path, edit: Edit, library_name: str, said: str
) -> None:
    edit_manifest(bundle, edit)
    output = tmp_path / "r.json"
    refused(3, said, execute(runner, bundle, "--library", library_name or library, "--output", output), output)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--component", "unet"], "the bundle has no unet, only hypernet"),
        (["--component", ""], "give --component NAME"),
        (["--runs", "0"], "--runs is '0'; give a whole number from 1"),
        (["--runs", "1e3"], "--runs is '1e3'"),
        (["--threads", "-1"], "--threads is '-1'"),
        (["--warmup", "99999999999999999999"], "--warmup is"),
        (["--kind", "estimated"], "give measured or emulated"),
        (["--output", "."], "is a folder or lies in none"),
        (["--output", "/none/r.json"], "is a folder or lies in none"),
        (["--speed", "1"], "--speed is no option"),
        (["--runs"], "--runs needs a value"),
        (["another"], "give one BUNDLE"),
    ],
)
def test_wrong_arguments_are_refused(runner: Path, bundle: Path, tmp_path: Path, options: list[str], said: str) -> None:
    refused(2, said, execute(runner, bundle, *options), tmp_path / "r.json")


def test_a_folder_without_a_manifest_is_refused(runner: Path, tmp_path: Path) -> None:
    refused(2, "not a bundle (no manifest.json)", execute(runner, tmp_path), tmp_path / "r.json")


def test_help_and_version(runner: Path) -> None:
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    for option, said in (("--help", "usage: lorarar-runner BUNDLE"), ("--version", f"lorarar-runner {version}\n")):
        done = subprocess.run([runner, option], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(said) and done.stderr == ""


# --- its parts, against Python's


def probe(runner: Path, *requests: str) -> list[str]:
    program = runner.with_name("lorarar-probe")
    given = "".join(f"{request}\n" for request in requests)
    return subprocess.run([program], input=given, capture_output=True, text=True, check=True).stdout.splitlines()


def test_hashes_are_those_of_python(runner: Path, tmp_path: Path) -> None:
    sizes = [*range(140), 2**20, 2**20 + 1]  # round a block of 64 bytes, and round a read
    for size in sizes:
        (tmp_path / str(size)).write_bytes(np.random.default_rng(size).bytes(size))
    found = probe(runner, *(f"sha256 {tmp_path / str(size)}" for size in sizes), f"sha256 {tmp_path}")
    assert found == [tree_sha256(path)[1] for path in (*(tmp_path / str(size) for size in sizes), tmp_path)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_golden_inputs_are_those_of_python(runner: Path, dtype: str) -> None:
    # The small scales reach fp16's subnormals and zero, the large ones its infinity; 0.3 is no power of two.
    cases = [(seed, scale) for seed in (0, 1, 2**32 - 1) for scale in (1.0, 0.0625, 0.3, 1e-6, 3e-8, 3000.0, 1e5)]
    found = probe(runner, *(f"generate {seed} {scale!r} 5000 {dtype}" for seed, scale in cases))
    with np.errstate(over="ignore"):
        expected = [generate((5000,), seed, scale, np.dtype(dtype)).tobytes().hex() for seed, scale in cases]
    assert found == expected


def test_percentiles_are_those_of_python(runner: Path) -> None:
    samples = [np.random.default_rng(n).random(n) for n in (1, 2, 3, 10, 101)]
    cases = [(percent, values) for percent in PERCENTILES for values in samples]
    found = probe(
        runner, *(f"percentile {percent} {' '.join(map(repr, values.tolist()))}" for percent, values in cases)
    )
    assert [float(text) for text in found] == pytest.approx([np.percentile(v, p) for p, v in cases], rel=1e-12)


def test_large_weights_of_half_precision_stay_narrow_as_in_python(runner: Path) -> None:
    cases = [(dtype, size) for dtype in ("float32", "float16") for size in (1, WIDEN_AT_LOAD, WIDEN_AT_LOAD + 1)]
    found = probe(runner, *(f"optimizers {dtype} {size}" for dtype, size in cases))
    assert found == [";".join(disabled_optimizers(component_of(*case))) for case in cases]
    assert [bool(names) for names in found] == [False, False, False, False, False, True]


def component_of(dtype: str, size: int) -> Component:
    tolerance = Tolerance(100.0, 1e-4, None)
    inputs = (TensorSpec("x", np.dtype(dtype).type, (1,)),)
    return Component("part", Path("x"), inputs, (), tolerance, Path("golden"), {}, {"bytes": size})


# --- on an arm64 device's processor


@pytest.mark.parametrize(("component", "precision"), [("hypernet", "fp32"), ("hypernet", "fp16"), ("unet", "fp32")])
def test_arm64_under_emulation(arm64_runner: Path, bundles: BundleOf, component: str, precision: str) -> None:
    # A phone's processor: qemu's own default has other kernels.
    emulator = ("qemu-aarch64", "-cpu", "cortex-a76", "-L", str(ARM64_ROOT))
    options = ("--component", component, "--library", onnxruntime_arm64(), "--kind", "emulated", "--warmup", 1)
    code, printed, said = execute(arm64_runner, bundles(component, precision), *options, before=emulator)
    assert code == 0, said
    record = check_record(json.loads(printed), "arm64")
    assert record["kind"] == "emulated" and record["device"]["abi"] == "aarch64"
    assert record["parity"]["status"] == "passed" and record["parity"]["within_tolerance"]
    assert (record["parity"]["delta"] is not None) == (component == "unet")
