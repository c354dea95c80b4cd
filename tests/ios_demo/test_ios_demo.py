"""The iOS app's engine on Linux, against Python: files, merges, a whole image, records; and that its tests can fail.

ONNX Runtime is the real one, through its C API. Core ML is a stand-in with Apple's declarations: neither Core ML, nor
a Mac, nor an iPhone is part of this.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from android.on_jvm import make_loadable
from devices.fetch import ONNXRUNTIME_ANDROID, android_archive
from devices.hostile import edit_manifest, poison
from ios import calls
from ios.make_vectors import VECTORS, text
from ios.swift import DEMO, OPTIMISED, PACKAGE, execute, onnxruntime_library, swift
from ios.tool import CONTENT, GOLDEN, STYLE, tool
from safetensors.numpy import load_file, save_file
from shared_bundles import MiniatureBundle
from tiny_world import random_lora

from benchmarks.record import check_record
from lorarar.composed import ComposedStart
from lorarar.layout import ROLES, UNET, Layout
from lorarar.lora import LoRA, read_lora, write_lora
from lorarar.stack import PART_WORDS, carried, fold
from runtime_py.bundle import Bundle
from runtime_py.check import check_component
from runtime_py.hashes import tree_sha256
from runtime_py.parity import Tolerance, psnr_db
from runtime_py.pipeline import Drawn, Request
from runtime_py.session import Session

pytestmark = pytest.mark.apps

REQUEST = Request("a sks teapot in oil painting style", seed=7, steps=4, guidance=2.0, guidance_rescale=0.6)
STRENGTHS = (1.2, 0.8, -0.5)
# Of two runs of one graph in one runtime on one computer: nothing but the order of a sum may differ.
SAME_GRAPH = Tolerance(psnr_db=120.0, max_error=1e-5)


def assert_same(found: np.ndarray, expected: np.ndarray, allowed: Tolerance) -> None:
    """Of one size, and within a tolerance."""
    assert found.shape == expected.shape
    worst = np.abs(found.astype(np.float64) - expected).max()
    assert worst <= allowed.max_error * np.abs(expected).max() and psnr_db(expected, found) >= allowed.psnr_db


# --- the engine's own tests


def test_swift_test(products: Path, miniature: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORARAR_BUNDLE", str(miniature))
    monkeypatch.setenv("LORARAR_ONNXRUNTIME", str(onnxruntime_library()))
    ran = swift("test", "--skip-build", *OPTIMISED)
    said = ran.out + ran.err
    counts = re.findall(r"Executed (\d+) tests?, with (\d+) failures", said)
    assert ran.code == 0 and counts, "\n".join(re.findall(r".*error:.*", said)) or said[-4000:]
    assert int(counts[-1][0]) == len(test_functions()) and counts[-1][1] == "0"


def test_functions() -> list[str]:
    """Every XCTest in the package: one that is lost is seen."""
    files = (PACKAGE / "Tests").rglob("*Tests.swift")
    return [name for file in files for name in re.findall(r"func (test\w+)\(", file.read_text(encoding="utf-8"))]


test_functions.__test__ = False  # type: ignore[attr-defined]


def test_the_readme_lists_every_call() -> None:
    text = calls.README.read_text(encoding="utf-8")
    assert calls.with_table(text) == text, "run  PYTHONPATH=tests/support python tests/support/ios/calls.py"
    for framework in calls.FRAMEWORKS:
        assert f"\n| {framework} | `" in text


def test_the_vectors_are_pythons() -> None:
    kept, made = (
        # Another CPU adds up in another order, which changes a number's last digit.
        json.loads(written, parse_float=lambda number: f"{float(number):.12g}")
        for written in (VECTORS.read_text(encoding="utf-8"), text())
    )
    assert kept == made


def test_the_sources_are_formatted() -> None:
    ran = execute("swift", "format", "lint", "--strict", "--recursive", str(DEMO))
    assert (ran.code, ran.out + ran.err) == (0, "")
    for path in [
        path for path in DEMO.rglob("*") if path.suffix in (".swift", ".c", ".h") and ".build" not in str(path)
    ]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) < 400, f"{path} has {len(lines)} lines"
        assert not [line for line in lines if len(line) > 120], f"{path} has a line over 120 characters"


# --- merges and images


def test_every_part_is_pytorchs(products: Path, miniature: Path, with_text: Path) -> None:
    for folder, takers in ((miniature, ["unet"]), (with_text, ["text_encoder", "text_encoder_2", "unet"])):
        ran = tool(products, "check", folder)
        rows = [line.split("\t") for line in ran.out.splitlines() if "\t" in line]
        names = [*Bundle.open(folder).manifest["components"], "image"]
        assert ran.code == 0 and [row[:2] for row in rows] == [[name, "passed"] for name in names], ran.out + ran.err
        assert {row[0]: row[4] for row in rows if row[4] != "-"} == dict.fromkeys(takers, "gain 1.0000, cosine 1.0000")


def chosen(bundle: Bundle, loras: Sequence[LoRA | Path]) -> Session:
    """Python's session with these LoRAs, merged with the first of STRENGTHS."""
    session = bundle.session()
    session.load(loras)
    session.merge(strengths=STRENGTHS[: len(loras)])
    return session


def strengths(count: int) -> tuple[str, str]:
    """The same for merger-tool."""
    return "--strengths", ",".join(map(str, STRENGTHS[:count]))


def compare_tensors(found: dict[str, np.ndarray], session: Session) -> None:
    """The stack is Python's bit by bit, and the coefficients as far as one graph gives the same twice."""
    assert set(found) == {*session.stack.inputs, *session.coefficients}
    for name, tensor in session.stack.inputs.items():
        assert found[name].dtype == tensor.dtype and np.array_equal(found[name], tensor), name
    for name, tensor in session.coefficients.items():
        assert_same(found[name], tensor, SAME_GRAPH)


def test_a_merge_is_pythons(products: Path, miniature: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged.safetensors"
    ran = tool(products, "merge", miniature, CONTENT, STYLE, *strengths(2), "-o", output)
    assert ran.code == 0 and "predicted in" in ran.out, ran.err
    compare_tensors(load_file(output), chosen(Bundle.open(miniature), [CONTENT, STYLE]))


@pytest.mark.parametrize("version", ["of this environment", "1.29"])
def test_a_merge_in_half_precision_is_pythons(
    products: Path, miniature_bundle: MiniatureBundle, version: str, tmp_path: Path
) -> None:
    """Also through Android's version, made loadable here."""
    folder, output = miniature_bundle("hypernet", "onnx", "fp16"), tmp_path / "merged.safetensors"
    library, settings = None, {}
    if version == "1.29":
        name = "libonnxruntime.so"
        settings = make_loadable(tmp_path, [android_archive(ONNXRUNTIME_ANDROID) / "jni" / "x86_64" / name])
        library = tmp_path / name
    ran = tool(
        products, "merge", folder, CONTENT, STYLE, *strengths(2), "-o", output, library=library, settings=settings
    )
    assert ran.code == 0, ran.err
    compare_tensors(load_file(output), chosen(Bundle.open(folder), [CONTENT, STYLE]))


def write_parts(folder: Path) -> list[Path]:
    """Write a content and a style that each lack some layers of the other and of the base, of other ranks."""
    places = []
    for path, step in ((CONTENT, 2), (STYLE, 3)):
        whole = read_lora(path)
        part = LoRA({name: whole.layers[name] for name in sorted(whole.layers)[::step]}, source=path.name)
        places.append(folder / path.name)
        write_lora(part, places[-1], dialect="kohya" if step == 2 else "peft", dtype="bf16")
    return places


def test_layers_of_one_lora_are_merged_as_in_python(products: Path, miniature: Path, tmp_path: Path) -> None:
    output, places = tmp_path / "merged.safetensors", write_parts(tmp_path)
    ran = tool(products, "merge", miniature, *places, *strengths(2), "-o", output)
    assert ran.code == 0, ran.err
    compare_tensors(load_file(output), chosen(Bundle.open(miniature), places))


def test_three_loras_are_merged_as_in_python(products: Path, three: Path, tmp_path: Path) -> None:
    """Of whole transformer blocks: a random LoRA beside two files of other dialects and ranks."""
    bundle, output, beside = Bundle.open(three), tmp_path / "merged.safetensors", tmp_path / "beside.safetensors"
    write_lora(random_lora(bundle.layout, (5, 1, 2), 3), beside, dialect="peft")
    loras = [GOLDEN / "hypernet" / "content.safetensors", GOLDEN / "hypernet" / "style.safetensors", beside]
    ran = tool(products, "merge", three, *loras, *strengths(3), "-o", output)
    assert ran.code == 0, ran.err
    compare_tensors(load_file(output), chosen(bundle, loras))


def test_the_golden_merge_is_the_dense_one(products: Path, tmp_path: Path) -> None:
    """tests/golden/hypernet: two files of different dialects and ranks, and Eq. 2 on dense matrices in float64."""
    folder, output = GOLDEN / "hypernet", tmp_path / "merged.safetensors"
    loras = (folder / "content.safetensors", folder / "style.safetensors")
    ran = tool(products, "merge", folder / "bundle", *loras, "--strengths", "0.9,1.1", "-o", output)
    assert ran.code == 0, ran.err
    found, expected = load_file(output), load_file(folder / "expected.safetensors")
    layout = Bundle.open(folder / "bundle").layout
    coefficients = {group.coefficients: found[group.coefficients] for group in layout.groups}
    merged = fold(found, found[ROLES], coefficients, layout)
    assert set(merged.layers) == set(expected) and len(expected) == 36
    for name, layer in merged.layers.items():
        assert_same(layer.delta(), expected[name], Tolerance(psnr_db=100.0, max_error=1e-5))


def test_carried_shares_are_pythons(products: Path, miniature: Path, with_text: Path, tmp_path: Path) -> None:
    for folder, places in ((miniature, [CONTENT, STYLE]), (with_text, write_whole(with_text, tmp_path))):
        ran = tool(products, "merge", folder, *places)
        assert ran.code == 0, ran.err
        assert_shares_are_told(ran.out, places, Bundle.open(folder).layout)


def assert_shares_are_told(told: str, places: Sequence[Path], layout: Layout) -> None:
    """Of each LoRA the shares by part, and a warning where something is left out, as Python says them."""
    for path in places:
        found = carried(read_lora(path), layout)
        parts = ", ".join(f"{PART_WORDS[part]} {share:.1%}" for part, share in found.parts.items())
        assert f"{path.name}: {found.share:.1%} carried: {parts}\n" in told
        warning = found.warning()
        if warning:
            assert f"warning: {path.name}{warning.removeprefix(found.source)}" in told


COMPOSED = ["--subject", "a sks teapot", "--subject-class", "a teapot"]


def composed(request: Request) -> Request:
    assert "a sks teapot" in request.prompt
    return replace(request, composed=ComposedStart("a sks teapot", "a teapot"))


@pytest.mark.parametrize("kind", ["merged", "without", "composed", "one LoRA", "base", "unguided", "negative"])
def test_an_image_is_pythons(products: Path, miniature: Path, tmp_path: Path, kind: str) -> None:
    request = REQUEST
    given: list[object] = []
    if kind in ("merged", "without", "composed"):
        given = [CONTENT, STYLE, *strengths(2)]
    if kind == "without":
        request, given = replace(REQUEST, guidance_without_lora=True), [*given, "--guidance-without-lora"]
    if kind == "composed":
        request, given = composed(REQUEST), [*given, *COMPOSED]
    if kind == "one LoRA":
        given = [STYLE, *strengths(1)]
    if kind == "unguided":
        request = replace(REQUEST, guidance=1.0)
    if kind == "negative":
        request, given = replace(REQUEST, negative="a dog"), ["--negative", "a dog"]
    assert_image_is_pythons(products, miniature, request, given, tmp_path)


def assert_image_is_pythons(
    products: Path, folder: Path, request: Request, given: Sequence[object], scratch: Path
) -> Drawn:
    """The tool's image of a request, with the LoRAs and options that it is given; returns Python's."""
    bundle, output = Bundle.open(folder), scratch / "image.safetensors"
    loras = [path for path in given if isinstance(path, Path)]
    expected = (chosen(bundle, loras) if loras else bundle.session()).draw(request)
    numbers = ["--seed", request.seed, "--steps", request.steps, "--guidance", request.guidance]
    numbers += ["--guidance-rescale", request.guidance_rescale]
    ran = tool(products, "generate", folder, "--prompt", request.prompt, *numbers, *given, "-o", output)
    assert ran.code == 0, ran.err
    found = load_file(output)
    allowed = bundle.manifest["pipeline"]["golden"]["tolerance"]
    for name, tensor in (("latents", expected.latents), ("pixels", expected.pixels)):
        assert_same(found[name], tensor, Tolerance(allowed["psnr_db"], allowed["max_error"]))
    assert (found["rgba"][..., 3] == 255).all()
    assert np.abs(found["rgba"][..., :3] - expected.image.astype(np.int32)).max() <= 1
    return expected


# --- text encoders that take LoRAs


def write_whole(bundle: Path, folder: Path) -> list[Path]:
    """Write a content and a style with layers of the UNet and of both text encoders, some of them of one alone.

    The content has a layer more, of a text encoder's last layer, which SDXL takes no states of.
    """
    layout, places = Bundle.open(bundle).layout, []
    beyond = "text_encoder.text_model.encoder.layers.1.mlp.fc1"
    for name, skipped in (("content", ".fc2"), ("style", ".q_proj")):
        whole = random_lora(layout, (2, 3), len(name), 0.1)
        layers = {layer: whole.layers[layer] for layer in whole.layers if not layer.endswith(skipped)}
        if name == "content":
            layers[beyond] = whole.layers[beyond.replace("layers.1", "layers.0")]
        places.append(folder / f"{name}.safetensors")
        write_lora(LoRA(layers, source=name), places[-1], dialect="peft")
    return places


def test_a_merge_with_text_layers_is_pythons(products: Path, with_text: Path, tmp_path: Path) -> None:
    output, places = tmp_path / "merged.safetensors", write_whole(with_text, tmp_path)
    ran = tool(products, "merge", with_text, *places, *strengths(2), "-o", output)
    assert ran.code == 0, ran.err
    found = load_file(output)
    compare_tensors(found, chosen(Bundle.open(with_text), places))
    assert {name.split("_")[1] for name in found if name != ROLES} == {"qo", "kv", "ff", "proj", "te1", "te2"}


def test_a_composed_start_needs_two_loras_and_its_subject(products: Path, miniature: Path) -> None:
    for given, words in (
        ([STYLE], "choose a content and a style LoRA"),
        ([CONTENT, STYLE], "does not have the subject"),
    ):
        prompt = REQUEST.prompt if len(given) == 1 else "a dog"
        ran = tool(products, "generate", miniature, "--prompt", prompt, *given, *COMPOSED)
        assert ran.code == 2 and words in ran.err, ran.err


@pytest.mark.parametrize("kind", ["merged", "without", "composed", "one LoRA", "base", "unguided"])
def test_an_image_with_text_layers_is_pythons(products: Path, with_text: Path, tmp_path: Path, kind: str) -> None:
    request, places = replace(REQUEST, negative="a house"), write_whole(with_text, tmp_path)
    given: list[object] = [*places, *strengths(2), "--negative", "a house"]
    if kind == "without":
        request, given = replace(request, guidance_without_lora=True), [*given, "--guidance-without-lora"]
    if kind == "composed":
        request, given = composed(request), [*given, *COMPOSED]
    if kind == "one LoRA":
        given = [places[1], *strengths(1), "--negative", "a house"]
    if kind == "base":
        given = ["--negative", "a house"]
    if kind == "unguided":
        request, given = replace(request, guidance=1.0, negative=None), given[:-2]
    drawn = assert_image_is_pythons(products, with_text, request, given, tmp_path)
    if kind != "merged":
        return
    unet = [LoRA({n: x for n, x in read_lora(path).layers.items() if n.startswith(UNET)}) for path in places]
    other = chosen(Bundle.open(with_text), unet).draw(request)
    assert psnr_db(drawn.latents, other.latents) < 40, "the text layers must show, or the comparison says nothing"


# --- records


@pytest.mark.parametrize("component", ["hypernet", "unet"])
def test_a_record_is_valid_and_says_what_python_says(
    products: Path, miniature: Path, tmp_path: Path, component: str
) -> None:
    output = tmp_path / "record.json"
    options = ("--component", component, "--runs", 3, "--warmup", 2, "--threads", 1)
    ran = tool(products, "benchmark", miniature, *options, "-o", output)
    assert ran.code == 0, ran.err
    record = check_record(json.loads(output.read_text()), str(output))
    bundle = Bundle.open(miniature)
    (row,) = check_component(bundle, component)
    assert row.worst is not None
    assert record["parity"]["status"] == "passed" and record["parity"]["within_tolerance"] is True
    assert record["parity"]["max_error"] == pytest.approx(row.worst.max_error, rel=0.05)
    if row.delta is None:
        assert record["parity"]["delta"] is None
    else:
        assert record["parity"]["delta"]["gain"] == pytest.approx(row.delta.gain, abs=1e-6)
        assert record["parity"]["delta"]["cosine"] == pytest.approx(row.delta.cosine, abs=1e-6)
    assert record["artifact"]["sha256"] == bundle.component(component).entry["sha256"]
    assert record["bundle"]["manifest_sha256"] == tree_sha256(miniature / "manifest.json")[1]
    assert record["runner"] == "ios-app" and record["kind"] == "measured" and record["paper"] is None
    assert record["runtime"] == {
        **{"name": "onnxruntime", "version": row.runtime_version, "backend": "CPUExecutionProvider"},
        **{"compute_unit": "cpu", "threads": 1},
    }
    assert (record["runs"]["n"], record["runs"]["warmup_count"]) == (3, 2) and record["runs"]["first_s"] > 0
    assert record["memory"]["measure"] == "rss" and record["memory"]["peak_bytes"] > record["artifact"]["bytes"]


def test_an_effect_of_loras_out_of_tolerance_is_told(products: Path, miniature: Path, tmp_path: Path) -> None:
    """A golden file whose values without LoRAs are other ones: the output is right, what LoRAs change in it is not."""
    bundle = shutil.copytree(miniature, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    golden = manifest["components"]["unet"]["golden"]
    tensors = load_file(bundle / golden["file"])
    tensors["noise_pred.without"] -= tensors["noise_pred.values"] - tensors["noise_pred.without"]
    save_file(tensors, bundle / golden["file"])
    golden["bytes"], golden["sha256"] = tree_sha256(bundle / golden["file"])
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    ran = tool(products, "check", bundle)
    (row,) = [line.split("\t") for line in ran.out.splitlines() if line.startswith("unet\t")]
    assert ran.code == 1 and row[1] == "failed" and row[4].startswith("gain 0.5000, cosine 1.0000"), row
    assert "the LoRAs' effect on noise_pred has gain 0.5000" in row[5]


def test_a_run_out_of_tolerance_is_marked(products: Path, golden_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((golden_bundle / "manifest.json").read_text())
    manifest["components"]["hypernet"]["tolerance"]["psnr_db"] = 500
    (golden_bundle / "manifest.json").write_text(json.dumps(manifest))
    output = tmp_path / "record.json"
    ran = tool(products, "benchmark", golden_bundle, "--component", "hypernet", "--runs", 1, "-o", output)
    assert ran.code == 0, ran.err
    parity = check_record(json.loads(output.read_text()), str(output))["parity"]
    assert (parity["status"], parity["within_tolerance"]) == ("passed", False)


def test_a_run_that_is_not_finite_is_no_result(products: Path, golden_bundle: Path, tmp_path: Path) -> None:
    edit_manifest(golden_bundle, poison(math.nan))
    output = tmp_path / "record.json"
    ran = tool(products, "benchmark", golden_bundle, "--component", "hypernet", "--runs", 1, "-o", output)
    assert ran.code == 2 and "so that the run is no result" in ran.err and not output.exists()
