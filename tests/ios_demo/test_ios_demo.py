"""The iOS app's engine on Linux, against Python: files, merges, a whole image, records; and that its tests can fail.

ONNX Runtime is the real one, through its C API. Core ML is a stand-in with Apple's declarations: neither Core ML, nor
a Mac, nor an iPhone is part of this.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from android.on_jvm import make_loadable
from devices.fetch import ONNXRUNTIME_ANDROID, android_archive
from ios.make_vectors import VECTORS, text
from ios.swift import DEMO, OPTIMISED, PACKAGE, execute, swift
from ios.tool import CONTENT, GOLDEN, STYLE, tool
from safetensors.numpy import load_file
from shared_bundles import MiniatureBundle

from benchmarks.record import check_record
from lorarar.layout import UNET
from lorarar.lora import LoRA, read_lora, write_lora
from runtime_py.bundle import Bundle, tree_sha256
from runtime_py.check import check_component
from runtime_py.merge import merged_lora, run_merger
from runtime_py.parity import Tolerance, psnr_db
from runtime_py.pipeline import Pipeline, Request

pytestmark = pytest.mark.apps

REQUEST = Request("a sks teapot in oil painting style", seed=7, steps=4, guidance=2.0)
SCALES = (1.2, 0.8)
# Of two runs of one graph in one runtime on one computer: nothing but the order of a sum may differ.
SAME_GRAPH = Tolerance(psnr_db=120.0, max_error=1e-5)


def assert_same(found: np.ndarray, expected: np.ndarray, allowed: Tolerance) -> None:
    """Of one size, and within a tolerance."""
    assert found.shape == expected.shape
    worst = np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max()
    assert worst <= allowed.max_error and psnr_db(expected, found) >= allowed.psnr_db


# --- the engine's own tests


def test_swift_test(products: Path) -> None:
    ran = swift("test", "--skip-build", *OPTIMISED)
    counts = re.findall(r"Executed (\d+) tests?, with (\d+) failures", ran.out + ran.err)
    assert ran.code == 0 and counts, (ran.out + ran.err)[-4000:]
    assert int(counts[-1][0]) == len(test_functions()) and counts[-1][1] == "0"


def test_functions() -> list[str]:
    """Every XCTest in the package: one that is lost is seen."""
    files = (PACKAGE / "Tests").rglob("*Tests.swift")
    return [name for file in files for name in re.findall(r"func (test\w+)\(", file.read_text(encoding="utf-8"))]


test_functions.__test__ = False  # type: ignore[attr-defined]


def test_the_vectors_are_pythons() -> None:
    assert VECTORS.read_text(encoding="utf-8") == text()


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


def test_every_part_is_pytorchs(products: Path, miniature: Path) -> None:
    ran = tool(products, "check", miniature)
    rows = [line.split("\t") for line in ran.out.splitlines() if "\t" in line]
    names = [*Bundle.open(miniature).manifest["components"], "image"]
    assert ran.code == 0 and [row[:2] for row in rows] == [[name, "passed"] for name in names], ran.out + ran.err


def test_a_merge_is_pythons(products: Path, miniature: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged.safetensors"
    scales = ("--content-scale", SCALES[0], "--style-scale", SCALES[1])
    ran = tool(products, "merge", miniature, CONTENT, STYLE, *scales, "-o", output)
    assert ran.code == 0 and "merged 36 layers in" in ran.out, ran.err
    bundle, (content, style) = Bundle.open(miniature), (read_lora(CONTENT), read_lora(STYLE))
    lora = merged_lora(bundle, [content, style], SCALES)
    compare_adapters(load_file(output), Pipeline(bundle).adapter(lora))
    compare_coefficients(load_file(output), bundle, content, style)


@pytest.mark.parametrize("version", ["of this environment", "1.29"])
def test_a_merge_in_half_precision_is_pythons(
    products: Path, miniature_bundle: MiniatureBundle, version: str, tmp_path: Path
) -> None:
    """Also through Android's version, made loadable here: with all of its optimizers it crashes on such a merger."""
    from lorarar.layout import unpack

    folder, output = miniature_bundle("hypernet", "onnx", "fp16"), tmp_path / "merged.safetensors"
    library, settings = None, {}
    if version == "1.29":
        name = "libonnxruntime.so"
        settings = make_loadable(tmp_path, [android_archive(ONNXRUNTIME_ANDROID) / "jni" / "x86_64" / name])
        library = tmp_path / name
    ran = tool(products, "merge", folder, CONTENT, STYLE, "-o", output, library=library, settings=settings)
    assert ran.code == 0, ran.err
    bundle = Bundle.open(folder)
    expected = merged_lora(bundle, [read_lora(CONTENT), read_lora(STYLE)])
    assert expected is not None
    adapter = {name.removeprefix("adapter_"): tensor for name, tensor in load_file(output).items()}
    found = unpack(adapter, bundle.layout)
    assert set(found.layers) == set(expected.layers)
    for name, layer in found.layers.items():
        assert_same(layer.delta(), expected.layers[name].delta(), SAME_GRAPH)


def test_layers_of_one_lora_are_carried_as_in_python(products: Path, miniature: Path, tmp_path: Path) -> None:
    """Each LoRA lacks some layers of the other, and both lack some of the base's; their ranks differ too."""
    bundle, loras = Bundle.open(miniature), []
    for path, step in ((CONTENT, 2), (STYLE, 3)):
        whole = read_lora(path)
        part = LoRA({name: whole.layers[name] for name in sorted(whole.layers)[::step]}, source=path.name)
        write_lora(part, tmp_path / path.name, dialect="kohya" if step == 2 else "peft", dtype="bf16")
        loras.append(read_lora(tmp_path / path.name))
    output, places = tmp_path / "merged.safetensors", [tmp_path / path.name for path in (CONTENT, STYLE)]
    scales = ("--content-scale", SCALES[0], "--style-scale", SCALES[1])
    ran = tool(products, "merge", miniature, *places, *scales, "-o", output)
    assert ran.code == 0, ran.err
    compare_adapters(load_file(output), Pipeline(bundle).adapter(merged_lora(bundle, loras, SCALES)))


def compare_adapters(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """By the ΔW that they mean: Python leaves out the zeros between the two LoRAs' ranks."""
    names = [name for name in expected if name.endswith("_down")]
    assert names and set(expected) == {name for name in found if name.startswith("adapter_")}
    for name in names:
        assert found[name].shape == expected[name].shape
        up = name.removesuffix("_down") + "_up"
        deltas = [np.matmul(adapter[up].astype(np.float64), adapter[name]) for adapter in (found, expected)]
        assert_same(deltas[0], deltas[1], SAME_GRAPH)


def compare_coefficients(found: dict[str, np.ndarray], bundle: Bundle, content: LoRA, style: LoRA) -> None:
    from lorarar.merging import MergeOptions
    from runtime_py.backends import open_runner

    rule = bundle.manifest["hypernetwork"]["kv_rule"]
    options = MergeOptions(content_scale=SCALES[0], style_scale=SCALES[1], rule=rule)
    expected = run_merger(bundle, open_runner(bundle), content, style, options)
    names = [name for name in expected if name.startswith("coefficients_")]
    assert names == [f"coefficients_{group.name}" for group in bundle.layout.part("qo")]
    for name in names:
        assert_same(found[name], expected[name], SAME_GRAPH)


def test_the_golden_merge_is_the_dense_one(products: Path, tmp_path: Path) -> None:
    """tests/golden/merger: two files of different dialects and ranks, and Eq. 2 on dense matrices in float64."""
    folder, output = GOLDEN / "merger", tmp_path / "merged.safetensors"
    loras = (folder / "content.safetensors", folder / "style.safetensors")
    scales = ("--content-scale", 0.9, "--style-scale", 1.1)
    ran = tool(products, "merge", folder / "bundle", *loras, *scales, "-o", output)
    assert ran.code == 0, ran.err
    found, expected = load_file(output), load_file(folder / "expected.safetensors")
    layout, seen = Bundle.open(folder / "bundle").layout, 0
    for group in layout.groups:
        deltas = np.matmul(found[f"adapter_{group.up}"].astype(np.float64), found[f"adapter_{group.down}"])
        for row, module in enumerate(group.modules):
            assert_same(deltas[row], expected[UNET + module], Tolerance(psnr_db=100.0, max_error=1e-5))
            seen += 1
    assert seen == len(expected)


@pytest.mark.parametrize("kind", ["merged", "one LoRA", "base", "unguided", "negative"])
def test_an_image_is_pythons(products: Path, miniature: Path, tmp_path: Path, kind: str) -> None:
    from dataclasses import replace

    bundle, request = Bundle.open(miniature), REQUEST
    given: list[object] = []
    loras: list[Path] = []
    if kind == "merged":
        given, loras = ["--content", CONTENT, "--style", STYLE], [CONTENT, STYLE]
    if kind == "one LoRA":
        given, loras = ["--lora", STYLE], [STYLE]
    if kind == "unguided":
        request = replace(REQUEST, guidance=1.0)
    if kind == "negative":
        request, given = replace(REQUEST, negative="a dog"), ["--negative", "a dog"]
    pipeline = Pipeline(bundle)
    lora = merged_lora(bundle, [read_lora(path) for path in loras])
    expected = pipeline.draw(request, pipeline.adapter(lora))
    output = tmp_path / "image.safetensors"
    numbers = ["--seed", request.seed, "--steps", request.steps, "--guidance", request.guidance]
    ran = tool(products, "generate", miniature, "--prompt", request.prompt, *numbers, *given, "-o", output)
    assert ran.code == 0, ran.err
    found = load_file(output)
    allowed = bundle.manifest["pipeline"]["golden"]["tolerance"]
    for name, tensor in (("latents", expected.latents), ("pixels", expected.pixels)):
        assert_same(found[name], tensor, Tolerance(allowed["psnr_db"], allowed["max_error"]))
    assert (found["rgba"][..., 3] == 255).all()
    assert np.abs(found["rgba"][..., :3] - expected.image.astype(np.int32)).max() <= 1


# --- records


@pytest.mark.parametrize("component", ["merger", "unet"])
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
    assert record["parity"]["max_error"] == pytest.approx(row.worst.max_error, rel=0.05)
    assert record["artifact"]["sha256"] == bundle.component(component).entry["sha256"]
    assert record["bundle"]["manifest_sha256"] == tree_sha256(miniature / "manifest.json")[1]
    assert record["runner"] == "ios-app" and record["kind"] == "measured" and record["paper"] is None
    assert record["runtime"] == {
        **{"name": "onnxruntime", "version": row.runtime_version, "backend": "CPUExecutionProvider"},
        **{"compute_unit": "cpu", "threads": 1},
    }
    assert (record["runs"]["n"], record["runs"]["warmup_count"]) == (3, 2) and record["runs"]["first_s"] > 0
    assert record["memory"]["measure"] == "rss" and record["memory"]["peak_bytes"] > record["artifact"]["bytes"]


def test_a_run_out_of_tolerance_is_no_result(products: Path, golden_bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((golden_bundle / "manifest.json").read_text())
    manifest["components"]["merger"]["tolerance"]["psnr_db"] = 500
    (golden_bundle / "manifest.json").write_text(json.dumps(manifest))
    output = tmp_path / "record.json"
    ran = tool(products, "benchmark", golden_bundle, "--component", "merger", "--runs", 1, "-o", output)
    assert ran.code == 2 and "500 dB, so that the run is no result" in ran.err and not output.exists()
