"""Text to image from a bundle alone, against diffusers, for every target; and bundles that don't fit together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from drawn import drawn_by_diffusers
from PIL import Image
from safetensors.numpy import load_file
from shared_bundles import RANK, SharedPipelines
from tiny_world import soc_of

from export.bundle import write_component
from export.components.text_encoders import text_graph
from export.graph import ImageSize
from export.options import PipelineOptions, Source, UNetOptions
from export.targets import TARGETS, bundle_folder, default_targets, find_target
from export.write import write_pipeline, write_unet
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline, open_unet
from lorarar.commands.export import main
from lorarar.commands.generate import main as generate
from lorarar.commands.sheet import main as contact_sheet
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import open_predictor
from lorarar.layout import StackSize
from lorarar.lora import write_lora
from runtime_py.backends import Runners
from runtime_py.blend import Blender
from runtime_py.bundle import Bundle
from runtime_py.check import check_pipeline
from runtime_py.guidance import Inputs
from runtime_py.parity import psnr_db
from runtime_py.pipeline import Pipeline, Request
from runtime_py.sheet import LABEL, LEFT, MARGIN, ROWS, SWEEP

PRECISIONS = {name: target.default_precision for name, target in TARGETS.items()}
# XNNPACK's lowering of a whole pipeline takes minutes, and so does an image in the NPU's emulator; test_export_unet has
# their UNets.
EXPORTED = [
    pytest.param(target, precision, marks=[pytest.mark.full] if target in ("executorch", "qnn") else [])
    for target, precision in PRECISIONS.items()
]
SMALL = ImageSize(pixels=32, latent=8, batch=2)


def export(
    folder: Path, out: Path, target: str, precision: str, size: ImageSize = SMALL, vae_tile: int | None = None
) -> Bundle:
    layout = load_layout(str(folder), "transformer")
    pipeline = open_pipeline(str(folder), False, torch.float32)
    source = Source(pipeline, layout, open_predictor(str(folder), layout, untrained=True))
    options = PipelineOptions(target, precision, RANK, size, 4, 3.5, vae_tile=vae_tile, soc=soc_of(target))
    write_pipeline(source, options, out)
    return Bundle.open(out)


@pytest.mark.parametrize(("target", "precision"), EXPORTED)
def test_an_image_with_two_loras_is_what_diffusers_draws_with_the_merged_file(
    shallow_pipeline: Path,
    shared_pipelines: SharedPipelines,
    loras: tuple[Path, Path],
    tmp_path: Path,
    target: str,
    precision: str,
) -> None:
    bundle = shared_pipelines[target]
    out = tmp_path / "image.png"
    given = [str(bundle.path), "--content", str(loras[0]), "--style", str(loras[1]), "--prompt", "a sks dog"]
    assert generate([*given, "--steps", "4", "--seed", "3", "-o", str(out)]) == 0
    have = np.asarray(Image.open(out), np.float64) / 255
    session = bundle.session()
    session.load(loras)
    session.merge("learned")
    write_lora(session.merged().lora, tmp_path / "merged.safetensors")
    request = Request("a sks dog", seed=3, steps=4, guidance=3.5, guidance_rescale=0.6)  # the bundle's own numbers
    want = drawn_by_diffusers(shallow_pipeline, tmp_path / "merged.safetensors", request)
    base = drawn_by_diffusers(shallow_pipeline, None, request)
    burnt = drawn_by_diffusers(
        shallow_pipeline, tmp_path / "merged.safetensors", replace(request, guidance_rescale=0.0)
    )
    assert psnr_db(want, burnt) < 38, "and so must the rescaling"
    assert psnr_db(want, base) < 25, "the LoRAs must change the image, or the comparison says nothing"
    # A byte's rounding alone is 59 dB.
    assert psnr_db(want, have) > {"fp32": 55, "fp16": 38}[precision]


def test_an_image_in_tiles_is_what_diffusers_decodes_in_tiles(
    shallow_pipeline: Path, tmp_path: Path, shared_pipelines: SharedPipelines
) -> None:
    """Nine tiles of 16 pixels; the check of the export compares, and whole images are others."""
    bundle = export(shallow_pipeline, tmp_path / "tiles", "onnx", "fp32", vae_tile=16)
    assert bundle.component("vae_decoder").outputs[0].shape == (1, 3, 16, 16)
    assert check_pipeline(bundle).status == "passed"
    golden = load_file(bundle.path / bundle.manifest["pipeline"]["golden"]["file"])["image.values"]
    whole = shared_pipelines["onnx"]
    others = load_file(whole.path / whole.manifest["pipeline"]["golden"]["file"])["image.values"]
    assert 10 < psnr_db(others, golden) < 60
    for wrong in (12, 18, 36):
        with pytest.raises(InputError, match=f"`vae_tile` is {wrong}; valid are multiples of 4 from 16 to 32"):
            PipelineOptions("onnx", "fp32", RANK, SMALL, 4, 3.5, vae_tile=wrong)


def test_text_encoders_follow_the_unet_and_the_vae_does_not(
    shallow_pipeline: Path, shared_pipelines: SharedPipelines, tmp_path: Path
) -> None:
    for target in TARGETS.values():
        for unet, name in product(target.precisions, ("hypernet", "text_encoder", "text_encoder_2", "vae_decoder")):
            target.require(name, target.precision_of(name, unet))
    half = shared_pipelines["coreml"]
    types = {name: half.component(name).outputs[0].dtype for name in half.manifest["components"]}
    assert types["text_encoder"] is types["text_encoder_2"] is types["unet"] is types["hypernet"] is np.float16
    assert types["vae_decoder"] is np.float32
    units = {name: entry["compute_units"] for name, entry in half.manifest["components"].items()}
    # The Neural Engine has no float32, which the VAE is in here and the hypernetwork computes in.
    whole = dict.fromkeys(("hypernet", "vae_decoder"), "cpu-and-gpu")
    assert units == dict.fromkeys(units, "cpu-and-neural-engine") | whole
    assert not any("compute_units" in entry for entry in shared_pipelines["onnx"].manifest["components"].values())
    pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
    layout, size = load_layout(str(shallow_pipeline)), StackSize(2, 2 * RANK)
    text = text_graph("text_encoder", pipeline.text_encoder.eval(), [0] * 77, layout, size)
    write_component(
        tmp_path, text, find_target("onnx"), find_target("onnx").precision_of("text_encoder", "w4"), lambda _: None
    )
    assert bits_of_products(tmp_path / "text_encoder.onnx") == {8}


def bits_of_products(path: Path) -> set[int]:
    products = [node for node in onnx.load(str(path)).graph.node if node.op_type == "MatMulNBits"]
    return {attribute.i for node in products for attribute in node.attribute if attribute.name == "bits"}


def base_inputs(bundle: Bundle) -> Inputs:
    """What the UNet takes without a LoRA."""
    stack = bundle.stacked([])
    return Inputs(stack.inputs, [Blender(stack, 1.0).values])


def test_guidance_and_negative_prompts_are_diffusers(shallow_pipeline: Path, shared_pipelines: SharedPipelines) -> None:
    pipeline = Pipeline(shared_pipelines["onnx"], Runners(shared_pipelines["onnx"], keep=True))
    none = base_inputs(pipeline.bundle)
    for guidance, negative in ((1.0, None), (3.0, None), (3.0, "a house"), (2.0, "")):
        request = Request("a sks cat in watercolor style", 5, 3, guidance, negative)
        have = pipeline.draw(request, none)[0].pixels[0].transpose(1, 2, 0)
        want = drawn_by_diffusers(shallow_pipeline, None, request, negative)
        assert psnr_db(want, have) > 90, (guidance, negative)


def test_a_unet_of_batch_1_draws_the_same(
    shallow_pipeline: Path, shared_pipelines: SharedPipelines, tmp_path: Path
) -> None:
    unet, layout = open_unet(str(shallow_pipeline), False)[0], load_layout(str(shallow_pipeline), "transformer")
    write_unet(unet.eval(), layout, UNetOptions("onnx", "fp32", RANK, ImageSize(32, 8, 1)), tmp_path / "unet")
    entry = json.loads((tmp_path / "unet" / "manifest.json").read_text())["components"]["unet"]
    folder = copied(shared_pipelines["onnx"].path, tmp_path / "one", lambda data: data["components"].update(unet=entry))
    for name in (entry["file"], entry["golden"]["file"]):
        shutil.copy(tmp_path / "unet" / name, folder / name)
    request = Request("a sks dog", 2, 3, 4.0)
    images = []
    for bundle in (Bundle.open(folder), shared_pipelines["onnx"]):
        pipeline = Pipeline(bundle)
        images.append(pipeline.draw(request, base_inputs(bundle))[0].pixels)
    assert psnr_db(images[1], images[0]) > 100


def test_seeds_differ_and_repeat(shared_pipelines: SharedPipelines) -> None:
    pipeline = Pipeline(shared_pipelines["onnx"], Runners(shared_pipelines["onnx"], keep=True))
    none = base_inputs(pipeline.bundle)
    first, again, other = (pipeline.draw(Request("a", seed, 2), none)[0].pixels for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def copied(source: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle with a changed manifest."""
    shutil.copytree(source, folder)
    manifest = json.loads((source / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no unet": (lambda m: m["components"].pop("unet"), "its pipeline has no unet"),
    "no tokenizers": (lambda m: m["pipeline"].update(tokenizers={}), "breaks the schema"),
    "unknown scheduler": (lambda m: m["pipeline"]["scheduler"].update(kind="lcm"), "breaks the schema"),
    "extra scheduler option": (lambda m: m["pipeline"]["scheduler"].update(churn=1), "breaks the schema"),
    "other size": (lambda m: m["pipeline"].update(pixels=64), "vae_decoder's image doesn't fit the other parts"),
    "other length": (
        lambda m: m["pipeline"]["tokenizers"]["text_encoder"].update(length=78),
        "doesn't fit the other parts",
    ),
    "one encoder": (
        lambda m: m["pipeline"]["tokenizers"].pop("text_encoder"),
        "unet's encoder_hidden_states doesn't fit the other parts",
    ),
    "wrong tokenizer": (
        lambda m: m["pipeline"]["tokenizers"]["text_encoder"].update(sha256="0" * 64),
        "missing or outside|damaged or changed",
    ),
    "golden outside": (lambda m: m["pipeline"]["golden"].update(file="../x"), "breaks the schema"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_pipeline_whose_parts_do_not_fit_is_refused(
    shared_pipelines: SharedPipelines, tmp_path: Path, name: str
) -> None:
    change, message = CHANGES[name]
    with pytest.raises(InputError, match=message):
        Bundle.open(copied(shared_pipelines["onnx"].path, tmp_path / "bundle", change))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["pipeline"]["scheduler"].update(spacing="leading"),
        lambda m: m["pipeline"]["scheduler"].update(prediction="epsilon"),
        lambda m: m["pipeline"]["scheduler"].update(beta_end=0.013),
        lambda m: m["pipeline"].update(negative="empty"),
        lambda m: m["pipeline"]["golden"].update(seed=2),
        lambda m: m["pipeline"]["golden"].update(guidance=4.1),
        lambda m: m["pipeline"]["golden"].update(guidance_rescale=0.5),
        lambda m: m["pipeline"]["golden"].pop("guidance_rescale"),
        lambda m: m["components"]["unet"]["golden"]["inputs"]["adapter_qo_32x32_down"].update(seed=999),
    ],
)
def test_a_changed_pipeline_fails_its_check(
    shared_pipelines: SharedPipelines, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    bundle = shared_pipelines["onnx"]
    assert check_pipeline(bundle).status == "passed"
    altered = json.loads(json.dumps(dict(bundle.manifest)))
    change(altered)
    assert check_pipeline(Bundle(bundle.path, altered)).status == "failed"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--steps", "0"], "--steps is 0; give a whole number of 1 or more"),
        (["--seed", "-1"], "--seed is -1; valid are 0 to 4294967295"),
        (["--guidance", "0.5"], r"--guidance is 0.5; give 1 \(off\) or more"),
        (["--style-scale", "0.5"], "--style-scale belongs to a LoRA; give --style as well"),
        (["--lora", "CONTENT", "--style", "STYLE"], "--lora stands beside a content and a style LoRA, or alone"),
        (["--lora", "CONTENT", "--lora", "STYLE"], "several --lora stand beside a content and a style LoRA"),
        (["--lora", "CONTENT", "--lora-scale", "1", "--lora-scale", "2"], "2 --lora-scale for 1 --lora"),
        (["--method", "k-lora"], "--method is how LoRAs are merged; give --content and --style, or leave it out"),
        (["--content", "missing.safetensors"], "missing.safetensors"),
        (["-o", "image.jpg"], "image.jpg: the image is a PNG; end its name with .png"),
    ],
)
def test_bad_requests_are_told(
    shared_pipelines: SharedPipelines, loras: tuple[Path, Path], tmp_path: Path, extra: list[str], message: str
) -> None:
    names = {"CONTENT": str(loras[0]), "STYLE": str(loras[1])}
    given = [str(shared_pipelines["onnx"].path), "--prompt", "a", "-o", str(tmp_path / "out.png")]
    with pytest.raises(InputError, match=message):
        generate([*given, *(names.get(word, word) for word in extra)])
    assert not (tmp_path / "out.png").exists()


def test_a_hypernetwork_alone_draws_nothing(bundle_folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    given = [str(bundle_folders["onnx", "fp32"]), "--prompt", "a", "-o", str(tmp_path / "out.png")]
    with pytest.raises(
        InputError, match=r"can't draw, it holds hypernet alone; make a whole one with  lorarar export pipe"
    ):
        generate(given)


def test_the_command(shallow_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bundle"
    given = ["pipeline", "--target", "onnx", "--base", str(shallow_pipeline), "--rank", "2", "-o", str(out)]
    for extra, said in (
        ([], "give --hypernet"),
        (["--untrained"], "--untrained is for the named bases"),
        (["--plan"], "--plan makes nothing, so --out can't apply"),
    ):
        with pytest.raises(InputError, match=said):
            main([*given, *extra])
    assert not out.exists() and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("app", "target", "place"),
    [
        ("android_demo", "onnx", "app/src/main/assets/bundles/onnx"),
        ("ios_demo", "coreml", "App/Resources/bundles/coreml"),
    ],
)
def test_a_demo_app_s_bundle_goes_where_it_looks(tmp_path: Path, app: str, target: str, place: str) -> None:
    with pytest.raises(InputError, match="no demo app is there; give the path of android_demo or ios_demo"):
        bundle_folder(tmp_path / app, find_target(target))
    (tmp_path / app).mkdir()
    assert bundle_folder(tmp_path / app, find_target(target)) == tmp_path / app / place


def test_a_demo_app_is_given_what_it_runs(tmp_path: Path) -> None:
    (tmp_path / "android_demo").mkdir()
    (tmp_path / "ios_demo").mkdir()
    assert default_targets(tmp_path / "android_demo") == ["onnx"]
    assert default_targets(tmp_path / "ios_demo") == ["coreml", "coreai"]
    with pytest.raises(InputError, match=r"no --target is given; give one$"):
        main(["pipeline", "--plan"])
    with pytest.raises(InputError, match="no --target is given; give one, or  --into android_demo  or  ios_demo"):
        main(["pipeline"])
    with pytest.raises(InputError, match="no demo app is there"):
        main(["pipeline", "--into", str(tmp_path / "another")])
    with pytest.raises(InputError, match="android_demo runs onnx, executorch, qnn, not coreml; give another --target"):
        main(["pipeline", "--target", "coreml", "--into", str(tmp_path / "android_demo")])
    with pytest.raises(InputError, match="not allowed with argument"):
        main(["pipeline", "--target", "onnx", "--into", "android_demo", "--out", "x"])
    with pytest.raises(InputError, match="--plan makes nothing, so --into can't apply"):
        main(["pipeline", "--target", "onnx", "--into", str(tmp_path / "android_demo"), "--plan"])


def test_a_contact_sheet_shows_every_bundle_with_every_adapter(
    shared_pipelines: SharedPipelines, loras: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, sheet, alone = tmp_path / "reference.png", tmp_path / "sheet.png", tmp_path / "alone.png"
    Image.new("RGB", (9, 9), (250, 10, 20)).save(reference)
    given = ["--content", str(loras[0]), "--prompt", "a sks dog", "--steps", "2", "--seed", "4"]
    shown = [str(shared_pipelines["onnx"].path), str(shared_pipelines["coreml"].path), *given, "--style", str(loras[1])]
    assert contact_sheet([*shown, "--content-image", str(reference), "-o", str(sheet)]) == 0
    table = capsys.readouterr().out
    assert "onnx fp32" in table and "coreml fp16" in table
    assert table.count("equal") == len(ROWS) + 1  # the first bundle against itself, and no other image is the same
    assert generate([str(shared_pipelines["onnx"].path), *given, "--style", str(loras[1]), "-o", str(alone)]) == 0
    picture, side = Image.open(sheet), 2 * 32
    rows = LABEL + 4 * (side + MARGIN) + MARGIN, LABEL + 2 * (side + MARGIN) + MARGIN
    assert picture.size == (LEFT + len(SWEEP) * (side + MARGIN) + MARGIN, sum(rows))
    pixels = np.asarray(picture)
    assert (pixels[LABEL : LABEL + side, LEFT : LEFT + side] == (250, 10, 20)).all()
    row, column = LABEL + 3 * (side + MARGIN), LEFT + side + MARGIN
    want = Image.open(alone).resize((side, side), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(pixels[row : row + side, column : column + side], np.asarray(want))
    # The middle of the row of strengths is the paper's, and what the learned row shows.
    row, column = rows[0] + LABEL, LEFT + 2 * (side + MARGIN)
    np.testing.assert_array_equal(pixels[row : row + side, column : column + side], np.asarray(want))


def test_a_reference_that_is_no_image_is_named(
    shared_pipelines: SharedPipelines, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    given = ["--content", str(loras[0]), "--style", str(loras[1]), "--prompt", "p", "--style-image", str(bad)]
    with pytest.raises(InputError, match=r"bad\.png: not a whole PNG"):
        contact_sheet([str(shared_pipelines["onnx"].path), *given, "-o", str(tmp_path / "sheet.png")])
    assert not (tmp_path / "sheet.png").exists()


def test_the_benchmark_tells_every_stage(
    shared_pipelines: SharedPipelines,
    loras: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from benchmarks import timing
    from benchmarks.pipeline import main as benchmark
    from benchmarks.pipeline_times import STAGES

    monkeypatch.setattr(timing, "_SIZES", (512,))
    bundle, out = shared_pipelines["onnx"], tmp_path / "r.json"
    given = ["--content", str(loras[0]), "--style", str(loras[1]), "--steps", "2", "--runs", "3", "--threads", "1"]
    assert benchmark([str(bundle.path), *given, "--out", str(out)]) == 0
    document = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document
    (case,) = document["cases"]
    assert case["name"].endswith("onnx fp32") and len(case["seconds"]) == 3 and document["merged_pair"]
    assert tuple(case["stages_s"]) == STAGES and min(case["stages_s"].values()) > 0
    assert sum(case["stages_s"].values()) == pytest.approx(case["median_s"], rel=0.5)
    assert case["step_s"] == case["stages_s"]["steps"] / 2
    for wrong, said in (
        ([str(bundle.path), *given[:2]], "--content and --style belong together"),
        ([str(bundle.path)] * 2, "are both"),
        ([str(shared_pipelines["coreml"].path)], "is timed on Apple systems only"),
    ):
        with pytest.raises(InputError, match=said):
            benchmark(wrong)
