"""The Android app's engine on this computer's Java, against Python: files, numbers, merges and a whole image.

ONNX Runtime and ExecuTorch are the real ones of the app, through their Java APIs, in their x86-64 builds for Android
over glibc; Qualcomm's provider is that of its Python wheel, with the emulator of the NPU. Neither Android's C library,
nor a phone, nor ART is part of this. What ExecuTorch must never do here, such
as giving other outputs than it should, a module that stands in for it does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from android import on_jvm
from android.exported import export
from android.kotlin import APP, MERGER, ROOT, Ran, build_executorch, build_tests, run_junit
from android.mutants import MUTANTS, build
from android.shared import merger
from safetensors.numpy import load_file
from shared_bundles import MiniatureBundle, SharedPipelines

from benchmarks.record import check_record

pytestmark = pytest.mark.apps

Run = Callable[..., Ran]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def data() -> Path:
    """A folder that stays, for Gradle, which runs the engine's tests where there is one."""
    shutil.rmtree(ROOT / "build" / "android", ignore_errors=True)
    for name in ("exported", "results/scratch"):
        (ROOT / "build" / "android" / name).mkdir(parents=True)
    return ROOT / "build" / "android"


@pytest.fixture(scope="session")
def exported(data: Path, miniature_bundle: MiniatureBundle, shared_pipelines: SharedPipelines) -> Path:
    """What Kotlin's tests read. All but one pipeline are shallow ones: the miniature's take minutes to export."""
    shallow = shared_pipelines["executorch"].path, shared_pipelines["onnx+text"].path
    export(data / "exported", miniature_bundle("pipeline", "onnx", "fp32"), *shallow)
    return data / "exported"


@pytest.fixture(scope="session")
def results(data: Path) -> Path:
    """What Kotlin's tests leave."""
    return data / "results"


@pytest.fixture(scope="session")
def jars(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [merger(), build_tests(tmp_path_factory.mktemp("jars"), merger())]


@pytest.fixture(scope="session")
def junit(
    jars: list[Path],
    exported: Path,
    results: Path,
    miniature_bundle: MiniatureBundle,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Runs a class of the engine's tests, with the library that it needs."""
    onnxruntime = on_jvm.onnxruntime(tmp_path_factory.mktemp("onnxruntime"))
    executorch = on_jvm.executorch(tmp_path_factory.mktemp("executorch"))

    @cache
    def with_executorch() -> tuple[Path, Path]:
        return build_executorch(tmp_path_factory.mktemp("app"), *jars)

    def run_class(name: str, *before: Path) -> Ran:
        places = {"lorarar.golden": GOLDEN, "lorarar.exported": exported, "lorarar.results": results}
        native = executorch if name == "ExecuTorchLibraryTest" else onnxruntime
        own: list[Path] = []
        if name.startswith("ExecuTorch"):
            real, stood_in = with_executorch()
            own = [stood_in] if name == "ExecuTorchTest" else [real, stood_in]
        place = "org.lorarar.demo" if own else "org.lorarar.merger"
        if name == "QnnTest":
            shutil.copytree(miniature_bundle("hypernet", "qnn", "fp16"), exported / "qnn", dirs_exist_ok=True)
            places.update(on_jvm.qnn())
        classpath = [*before, *native.classes, *own, *jars]
        return run_junit([f"{place}.{name}"], classpath, {**places, **native.properties}, native.environment)

    return run_class


# Class → how many tests it has: one that is lost is seen.
CLASSES = {
    "LoraReaderTest": 11,
    "NumericsTest": 17,
    "SentenceTest": 6,
    "JsonTest": 5,
    "BundleTest": 6,
    "OnnxTest": 23,
    "QnnTest": 4,
    "TextTest": 9,
    "StudioTest": 22,
    "StopTest": 5,
    "ChoiceTest": 10,
    "ResidencyTest": 9,
    "RemoteTest": 8,
    "EntryTest": 7,
    "StepTest": 6,
    "ExecuTorchTest": 4,
    "ExecuTorchLibraryTest": 7,
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_engine(name: str, junit: Run) -> None:
    ran = junit(name)
    assert not ran.failures, ran.output
    assert ran.tests == CLASSES[name]


def test_every_test_class_is_run() -> None:
    found = {path.stem for module in (MERGER, APP) for path in (module / "src" / "test").rglob("*Test.kt")}
    assert found == set(CLASSES)


def test_what_gradles_tests_read(exported: Path, results: Path) -> None:
    """Made in the place that merger/build.gradle.kts names, which runs this test first."""
    script = (MERGER / "build.gradle.kts").read_text(encoding="utf-8")
    assert 'repository.resolve("build/android")' in script and "what_gradles_tests_read" in script
    assert exported == ROOT / "build" / "android" / "exported" and (exported / "numbers.json").is_file()
    assert results == ROOT / "build" / "android" / "results" and (results / "scratch").is_dir()


@pytest.mark.full
@pytest.mark.parametrize("name", MUTANTS)
def test_a_change_of_the_engine_is_seen(name: str, jars: list[Path], junit: Run, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    kind, _, method = mutant.test.partition(".")
    ran = junit(kind, build(mutant, jars[0], tmp_path))
    assert any(failure.startswith(f"{method}(") for failure in ran.failures), ran.output


def test_the_records_are_valid(junit: Run, results: Path) -> None:
    if not (results / "record-unet.json").exists():
        junit("OnnxTest")
    for component in ("hypernet", "unet"):
        record = json.loads((results / f"record-{component}.json").read_text())
        assert check_record(record, component)["runner"] == "android-app"
        assert (record["runs"]["n"], record["runs"]["warmup_count"]) == (3, 2)
        assert record["runtime"]["name"] == "onnxruntime"
        assert record["parity"]["max_error"] < 1e-4


@pytest.mark.parametrize(
    ("place", "name"), [("onnx", "OnnxTest"), ("executorch", "ExecuTorchLibraryTest"), ("text", "TextTest")]
)
def test_the_picture_is_pythons(place: str, name: str, junit: Run, results: Path, exported: Path) -> None:
    """Within one level of 255: what the two runtimes differ by may cross a rounding."""
    if not (results / f"image-{place}.rgb").exists():
        junit(name)
    pixels = load_file(exported / place / "images.safetensors")["image.0"]
    wanted = np.rint(pixels[0].transpose(1, 2, 0) * 255)
    have = np.frombuffer((results / f"image-{place}.rgb").read_bytes(), np.uint8).reshape(wanted.shape)
    assert np.abs(have.astype(int) - wanted).max() <= 1
    assert np.ptp(have) > 100
