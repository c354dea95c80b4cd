"""Sessions: what the public API of a bundle does. Stand-ins run the networks, so that no toolchain is needed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from shared_bundles import require_target
from stand_in import HYPERNET, StandIn, stand_in_backend

import runtime_py
from lorarar.commands.check import main as check
from lorarar.errors import InputError
from lorarar.lora import LoRA, read_lora
from lorarar.merging import merge_loras
from runtime_py import Bundle
from runtime_py.backends import coreml, load_backend, onnx, open_runner, targets
from runtime_py.blend import Blender
from runtime_py.check import check_component
from runtime_py.guidance import Inputs
from runtime_py.pipeline import Pipeline

CONTENT, STYLE = HYPERNET / "content.safetensors", HYPERNET / "style.safetensors"
SCALES = (0.9, 1.1)  # of the golden merge, tests/support/make_golden_hypernet.py


def pixels(session: Any, **numbers: Any) -> np.ndarray:
    return np.asarray(session.generate("a dog", steps=2, **numbers))


def test_the_lines_of_the_readme(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT, read_lora(STYLE)])
    session.merge("learned", strengths=(1.0, 0.8))
    image = session.generate("a sks dog in watercolor painting style", seed=3)
    assert (image.size, image.mode) == ((8, 8), "RGB")
    merged = session.merged().lora
    assert isinstance(merged, LoRA) and merged.metadata["lorarar_architecture"] == "koala"
    assert opened == ["hypernet", "text_encoder", "unet", "vae_decoder"]


def test_numbers_that_are_left_out_are_the_bundles(folder: Path, opened: list[str]) -> None:
    steps: list[tuple[int, int, tuple[int, ...]]] = []
    session = Bundle.open(folder).session()
    session.generate("a dog", on_step=lambda done, all_, latents: steps.append((done, all_, latents.shape)))
    assert steps == [(i, 5, (1, 4, 2, 2)) for i in range(1, 6)]
    request = session.pipeline.request("a dog")
    assert (request.guidance, request.guidance_rescale) == (3.0, 0), "a bundle from before rescaling has none"
    np.testing.assert_array_equal(pixels(session), pixels(session, guidance=3.0))
    assert not np.array_equal(pixels(session), pixels(session, guidance=4.0))
    assert not np.array_equal(pixels(session), pixels(session, seed=1))
    assert not np.array_equal(pixels(session), pixels(session, negative="a cat"))


def test_what_is_drawn_follows_the_loras(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    base = pixels(session)
    session.load([CONTENT, STYLE])
    default = pixels(session)  # merged with the defaults, since LoRAs were loaded
    session.merge("learned", strengths=(1.0, 1.0))
    np.testing.assert_array_equal(pixels(session), default)
    session.merge("learned", strengths=(1.0, 0.5))
    weaker = pixels(session)
    session.merge("direct")
    images = [base, default, weaker, pixels(session)]
    session.load([CONTENT])
    images.append(pixels(session))
    session.merge(strengths=[0.5])
    images.append(pixels(session))
    assert len({image.tobytes() for image in images}) == len(images)
    session.load([])
    np.testing.assert_array_equal(pixels(session), base)


def test_threads_draw_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most runtimes take one run at a time. `on_step` may merge, for the next image."""
    running = threading.Lock()

    class Slow(StandIn):
        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            assert running.acquire(blocking=False), "two runs at once"
            try:
                time.sleep(0.002)
                return super().run(inputs)
            finally:
                running.release()

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(Slow))
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    alone = [pixels(session, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        merging = {"on_step": lambda *_: session.merge("learned")}
        together = list(pool.map(lambda seed: pixels(session, seed=seed, **merging), range(4)))
    np.testing.assert_array_equal(together, alone)


def test_components_stay_loaded_in_small_bundles_alone(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    for _ in range(2):
        session.generate("a", steps=1)
    assert opened == ["text_encoder", "unet", "vae_decoder"]
    opened.clear()
    session = Bundle.open(folder).session(keep=False)
    for _ in range(2):
        session.generate("a", steps=1)
    assert opened == ["text_encoder", "unet", "vae_decoder"] * 2


def test_reprs_are_one_line(folder: Path, opened: list[str]) -> None:
    bundle = Bundle.open(folder)
    session = bundle.session()
    shown = [repr(bundle), repr(session)]
    session.load([CONTENT, STYLE])
    shown.append(repr(session))
    session.merge("direct", strengths=(1.0, 0.25))
    shown.append(repr(session))
    assert all("\n" not in text and len(text) < 300 for text in shown)
    assert "tiny, onnx fp32" in shown[0] and "the base" in shown[1] and "not merged" in shown[2]
    assert "direct merge of content.safetensors and style.safetensors, strengths 1, 0.25" in shown[3]


def test_what_a_session_can_not_do_is_told(folder: Path, opened: list[str], tmp_path: Path) -> None:
    session = Bundle.open(folder).session()
    with pytest.raises(InputError, match="no LoRA is loaded"):
        session.merge()
    with pytest.raises(InputError, match="no LoRA is loaded"):
        session.merged()
    with pytest.raises(InputError, match="3 LoRAs, but there is room for 2; export with `loras` 3"):
        session.load([CONTENT, STYLE, STYLE])
    with pytest.raises(InputError, match="`loras`"):
        session.load(str(CONTENT))
    session.load([CONTENT, STYLE])
    with pytest.raises(InputError, match="`method` is 'ties'"):
        session.merge("ties")
    for strengths in ((1.0,), (1.0, 2.0, 3.0), (1.0, np.nan)):
        with pytest.raises(InputError, match="`strengths`"):
            session.merge(strengths=strengths)
    for numbers, name in (({"seed": -1}, "seed"), ({"guidance": 0.5}, "guidance"), ({"steps": 0}, "steps")):
        with pytest.raises(InputError, match=f"`{name}` is"):
            session.generate("a", **numbers)  # type: ignore[arg-type]


def test_notes_tell_what_was_left_out(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    session.generate("dog " * 100, steps=1)
    assert "cut off" in " ".join(session.notes)
    session.generate("dog", steps=1)
    assert session.notes == ()


@pytest.mark.parametrize("alone", [True, False])
def test_notes_tell_what_reading_left_out(folder: Path, opened: list[str], alone: bool) -> None:
    session = Bundle.open(folder).session()
    content = replace(read_lora(CONTENT), warnings=("1 of its tensors",))
    session.load([content] if alone else [content, STYLE])
    session.merge()
    assert session.notes[0] == "1 of its tensors"


def test_a_merge_is_the_runtimes_and_a_direct_one_is_the_librarys() -> None:
    """Through the golden bundle's real hypernetwork, which can't draw."""
    require_target("onnx")
    bundle = Bundle.open(HYPERNET / "bundle")
    session = bundle.session()
    content, style = read_lora(CONTENT), read_lora(STYLE)
    session.load([content, style])
    session.merge("direct")
    expected = merge_loras(content, style, bundle.layout, "direct").lora
    for name, layer in session.merged().lora.layers.items():
        np.testing.assert_array_equal(layer.delta(), expected.layers[name].delta())
    session.merge(strengths=SCALES)
    for name, delta in load_file(HYPERNET / "expected.safetensors").items():
        np.testing.assert_allclose(session.merged().lora.layers[name].delta(), delta, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="can't draw"):
        session.generate("a dog")


def test_a_run_that_fails_is_a_row_and_exit_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(StandIn):
        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if self.component.name == "unet":
                raise InputError("the stand-in can't run it")
            return super().run(inputs)

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(Broken))
    (row,) = check_component(Bundle.open(folder), "unet")
    assert (row.status, row.runtime) == ("not_run", "stand-in for unet")
    assert "can't run it" in row.reason
    assert check([str(folder), "--out", str(tmp_path / "rows.json")]) == 1
    rows = {row["component"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert rows["unet"]["status"] == "not_run" and "can't run it" in rows["unet"]["reason"]
    assert rows["vae_decoder"]["status"] == "failed"  # it was run after the UNet
    assert "NOT RUN" in capsys.readouterr().out


def test_a_check_overwrites_nothing_that_it_reads(folder: Path, opened: list[str], tmp_path: Path) -> None:
    for out, message in (
        (folder / "manifest.json", "overwrite the input"),
        (folder / "golden" / "rows.json", "overwrite the input"),
        (CONTENT, "end its name with .json"),
        (tmp_path / "folder.json", "this is a folder"),
    ):
        (tmp_path / "folder.json").mkdir(exist_ok=True)
        before = out.read_bytes() if out.is_file() else None
        with pytest.raises(InputError, match=message):
            check([str(folder), "--out", str(out)])
        assert opened == [] and (out.read_bytes() if out.is_file() else None) == before


def test_an_artifact_that_changed_after_it_was_verified_is_not_run(
    folder: Path, opened: list[str], tmp_path: Path
) -> None:
    """As when a bundle is exported again into its folder: the manifest that was read is of the old one."""
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    session = Bundle.open(copy).session()
    session.load([CONTENT, STYLE])
    (copy / "hypernet.onnx").write_bytes((copy / "hypernet.onnx").read_bytes()[::-1])
    with pytest.raises(InputError, match="damaged or changed since its export"):
        session.merge()
    assert opened == []
    unverified = Bundle.open(copy, verify=False).session()
    unverified.load([CONTENT, STYLE])
    unverified.merge()
    assert opened == ["hypernet"]


@pytest.mark.parametrize("fails", ["load", "run", "answer", ""])
def test_what_apples_core_ml_does_not_take_is_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """As on a Mac, where Core ML comes before the evaluator, which runs all the same; a stand-in has its place here."""

    class Model:
        def __init__(self, path: str, compute_units: object) -> None:
            assert compute_units == "all of them"
            if fails == "load":
                raise RuntimeError("it does not compile")

        def predict(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if fails == "run":
                raise RuntimeError("the Neural Engine gave up")
            return {} if fails == "answer" else {"image": np.ones((1, 3, 8, 8), np.float32)}

    units = types.SimpleNamespace(ALL="all of them", CPU_ONLY=0, CPU_AND_GPU=1, CPU_AND_NE=2)
    toolkit = types.SimpleNamespace(models=types.SimpleNamespace(MLModel=Model), ComputeUnit=units, __version__="9")
    monkeypatch.setattr(coreml, "import_coremltools", lambda: toolkit)
    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(coreml.CoreMLRunner, StandIn))
    row, evaluator = check_component(Bundle.open(folder), "vae_decoder")
    assert evaluator.status == "failed" and evaluator.runtime == "stand-in for vae_decoder"
    if not fails:
        assert row.status == "passed"
        return
    assert row.status == "not_run" and "vae_decoder.onnx" in row.reason
    reasons = {"load": "does not compile", "run": "gave up", "answer": "not the manifest's"}
    assert reasons[fails] in row.reason


@pytest.mark.parametrize("named", ["all", "cpu-only", "cpu-and-gpu", "cpu-and-neural-engine"])
def test_core_ml_runs_an_artifact_on_the_units_of_its_manifest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    given = []
    units = types.SimpleNamespace(ALL="all", CPU_ONLY="cpu-only", CPU_AND_GPU="cpu-and-gpu")
    units.CPU_AND_NE = "cpu-and-neural-engine"
    models = types.SimpleNamespace(MLModel=lambda path, compute_units: given.append(compute_units))
    toolkit = types.SimpleNamespace(models=models, ComputeUnit=units, __version__="9")
    monkeypatch.setattr(coreml, "import_coremltools", lambda: toolkit)
    component = Bundle.open(folder).component("unet")
    runner = coreml.CoreMLRunner(replace(component, entry={**component.entry, "compute_units": named}))
    assert given == [named]
    assert runner.runtime == f"Core ML ({'all units' if named == 'all' else named})"


@pytest.mark.parametrize(("threads", "told"), [(1, 1), (2, 2), (None, 0)], ids=["one", "two", "its own choice"])
def test_onnx_runtime_has_the_threads_asked_for(
    bundle_folders: dict[tuple[str, str], Path], threads: int | None, told: int
) -> None:
    runner = open_runner(Bundle.open(bundle_folders["onnx", "fp32"]), threads=threads)
    assert isinstance(runner, onnx.OnnxRunner)
    assert runner.session.get_session_options().intra_op_num_threads == told


def test_an_unchanged_file_is_hashed_once(folder: Path, hashed: list[str], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    for path in copy.rglob("*"):
        os.utime(path, ns=(10**18, 10**18))  # written long ago
    Bundle.open(copy, verify=False)
    assert hashed == []
    Bundle.open(copy)
    assert sorted(set(hashed)) == sorted(hashed) and "unet.onnx" in hashed
    hashed.clear()
    Bundle.open(copy)
    assert hashed == []
    (copy / "unet.onnx").write_bytes(b"UNET")  # of the same size
    os.utime(copy / "unet.onnx", ns=(10**18, 10**18))
    with pytest.raises(InputError, match="damaged or changed"):
        Bundle.open(copy)
    assert hashed == ["unet.onnx"]


def test_a_file_that_was_just_written_is_hashed_again(folder: Path, tmp_path: Path) -> None:
    """Two writes within one tick of the file system's clock look alike."""
    copy = Path(shutil.copytree(folder, tmp_path / "bundle", copy_function=shutil.copyfile))
    Bundle.open(copy)
    before = (copy / "unet.onnx").stat()
    (copy / "unet.onnx").write_bytes(b"UNET")
    os.utime(copy / "unet.onnx", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="damaged or changed"):
        Bundle.open(copy)


def test_files_are_there_and_inside_also_without_hashes(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    (copy / "unet.onnx").unlink()
    with pytest.raises(InputError, match=r"unet \(unet\.onnx\) is missing"):
        Bundle.open(copy, verify=False)


def test_a_target_is_one_file_of_backends() -> None:
    files = {path.stem for path in Path(runtime_py.__path__[0], "backends").glob("*.py")} - {"__init__"}
    assert set(targets()) == files
    with pytest.raises(InputError, match="no backend runs 'tflite'"):
        load_backend("tflite")


def test_the_terminal_stays_clean_of_executorchs_notes() -> None:
    code = "from runtime_py.backends.executorch import start_threads; start_threads(1)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_pipeline_can_be_used_without_a_session(folder: Path, opened: list[str]) -> None:
    bundle = Bundle.open(folder)
    pipeline = Pipeline(bundle)
    stack = bundle.stacked([])
    (drawn,) = pipeline.draw(pipeline.request("a dog", steps=2), Inputs(stack.inputs, [Blender(stack, 1.0).values]))
    np.testing.assert_array_equal(drawn.image, pixels(bundle.session()))
    assert list(drawn.seconds) == ["text", "load the UNet", "steps", "decode"]


def test_a_bundle_without_a_hypernetwork_merges_by_the_average(folder: Path, opened: list[str], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "bundle"))
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["components"]["hypernet"], manifest["hypernetwork"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    session = Bundle.open(copy).session()
    session.load([CONTENT, STYLE])
    with pytest.raises(InputError, match="no hypernet; merge by `direct`"):
        session.generate("a", steps=1)
    session.merge("direct")
    session.generate("a", steps=1)


@pytest.mark.parametrize("needed", ["qnn: onnxruntime", "qnn: onnxruntime_qnn", "onnx: onnxruntime"])
def test_a_missing_runtime_is_told_with_its_extra(needed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, module = needed.split(": ")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"lorarar-toolkit\[{target}\]"):
        load_backend(target)
