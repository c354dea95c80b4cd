"""runtime_py: the file-level merge through an artifact equals lorarar.merging; the plot; the commands."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from make_golden_hypernet import FOLDER as GOLDEN
from make_golden_hypernet import SCALES, make
from tiny_world import COMBINATIONS, random_lora, tiny_hypernet

from export.targets import find_target
from lorarar.commands.check import main as check
from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from lorarar.lora.layers import StoredLayer
from lorarar.merging import Merged, MergeOptions, merge_loras, predict_with
from lorarar.stack import stack
from runtime_py.backends import checked_inputs
from runtime_py.backends.onnx import OnnxRunner
from runtime_py.bundle import Bundle
from runtime_py.check import check_bundle
from runtime_py.merge import coefficient_medians, merge_files

FEED_FORWARD = "unet.down_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
CONV = "unet.down_blocks.1.resnets.0.conv1"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
KEY = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k"
QUERY = "unet.down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"


def with_layers(lora: LoRA, seed: int, names: tuple[str, ...], without: tuple[str, ...] = ()) -> LoRA:
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    made = {
        FEED_FORWARD: LoraLayer(normal(3, 128), normal(32, 3)),
        CONV: LoraLayer(normal(2, 16, 3, 3), normal(32, 2, 1, 1)),
        TEXT: LoraLayer(normal(4, 24), normal(24, 4)),
    }
    layers = {name: layer for name, layer in lora.layers.items() if name not in without}
    return LoRA(layers | {name: made[name] for name in names}, source=lora.source)


@pytest.fixture(scope="module")
def pair(layout: Layout) -> tuple[LoRA, LoRA]:
    """Mixed ranks, a layer that only one has on each side, layers outside the attention in one or in both."""
    content = with_layers(random_lora(layout, (4, 2), 1), 11, (FEED_FORWARD, CONV), without=(KEY,))
    style = with_layers(random_lora(layout, (3, 8), 2), 12, (FEED_FORWARD, TEXT), without=(QUERY,))
    return content, style


def merged_by(bundle: Bundle, pair: tuple[LoRA, LoRA], strengths: tuple[float, float] = (1.0, 1.0)) -> Merged:
    session = bundle.session()
    session.load(pair)
    session.merge("learned", strengths=strengths)
    return session.merged()


@pytest.mark.parametrize("key", [key for key in COMBINATIONS if key[1] == "fp32"])
def test_merging_with_a_bundle_equals_lorarar_merging(
    layout: Layout, bundle_folders: dict[tuple[str, str], Path], pair: tuple[LoRA, LoRA], key: tuple[str, str]
) -> None:
    bundle = Bundle.open(bundle_folders[key])
    hypernet = tiny_hypernet().predictor
    got = merged_by(bundle, pair, (0.8, 1.1))
    expected = merge_loras(*pair, layout, "learned", MergeOptions(0.8, 1.1, predict=predict_with(hypernet)))
    assert list(got.lora.layers) == list(expected.lora.layers)
    assert got.kinds == expected.kinds
    assert got.coefficients is not None and expected.coefficients is not None
    assert got.coefficients.keys() == expected.coefficients.keys()
    for name, layer in expected.lora.layers.items():
        assert got.lora.layers[name].rank == layer.rank
        peak = np.abs(layer.delta()).max()
        np.testing.assert_allclose(got.lora.layers[name].delta(), layer.delta(), rtol=0, atol=1e-5 * peak)


def test_layers_of_one_lora_are_carried_bit_for_bit(
    bundle_folders: dict[tuple[str, str], Path], pair: tuple[LoRA, LoRA]
) -> None:
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    merged = merged_by(bundle, pair).lora.layers
    for lora, name in ((pair[0], CONV), (pair[1], TEXT), (pair[1], KEY), (pair[0], QUERY)):
        np.testing.assert_array_equal(merged[name].down, lora.layers[name].down)
        np.testing.assert_array_equal(merged[name].up, lora.layers[name].up)


@pytest.mark.parametrize("key", COMBINATIONS)
def test_check_passes(bundle_folders: dict[tuple[str, str], Path], key: tuple[str, str]) -> None:
    rows = check_bundle(Bundle.open(bundle_folders[key]))
    assert rows and all(row.status == "passed" for row in rows)
    assert all(len(row.outputs) == 2 for row in rows)


def test_check_fails_on_an_altered_reference(
    bundle_folders: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One layer off by 1e-4 of the largest value, where no sampled position lies: its statistics tell."""
    run, bundle = OnnxRunner.run, bundle_folders["onnx", "fp32"]  # made before the runner is another

    def off(self: OnnxRunner, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = run(self, inputs)
        outputs["coefficients_qo_64x64"][1] += 1e-4
        return outputs

    monkeypatch.setattr(OnnxRunner, "run", off)
    assert check([str(bundle)]) == 1
    text = capsys.readouterr().out
    assert "FAILED" in text
    assert "coefficients_qo_64x64 differs by" in " ".join(text.split())


def test_check_says_not_run_when_a_toolchain_is_missing(
    bundle_folders: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert check([str(bundle_folders["onnx", "fp32"]), "--out", str(tmp_path / "rows.json")]) == 1
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["status"] == "not_run" and "onnxruntime is not installed" in row["reason"]


def test_inputs_are_checked_by_name_and_size(layout: Layout, bundle_folders: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    component = bundle.component("hypernet")
    stacked = stack([random_lora(layout, (4,), 1), random_lora(layout, (3,), 2)], layout).inputs
    good = {spec.name: stacked[spec.name] for spec in component.inputs}
    assert list(checked_inputs(component, good)) == [spec.name for spec in component.inputs]
    with pytest.raises(InputError, match="no input depth"):
        checked_inputs(component, good | {"depth": np.ones(1, np.float32)})
    # A rank that differs inside the stack, which no single product would notice.
    wrong = good["adapter_qo_32x32_up"][:, :, :3]
    with pytest.raises(InputError, match=r"adapter_qo_32x32_up has shape \(4, 32, 3\)"):
        checked_inputs(component, good | {"adapter_qo_32x32_up": wrong})


def test_two_files_become_one_and_a_picture(
    bundle_folders: dict[tuple[str, str], Path], pair: tuple[LoRA, LoRA], tmp_path: Path
) -> None:
    content, style, out = (tmp_path / f"{name}.safetensors" for name in ("content", "style", "merged"))
    write_lora(pair[0], content, dialect="kohya")
    write_lora(pair[1], style, dialect="peft")
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    stages: list[tuple[str, int, int]] = []
    done = merge_files(
        bundle, content, style, out, plot=tmp_path / "m.png", on_progress=lambda *stage: stages.append(stage)
    )
    merged = read_lora(out)
    assert merged.layers.keys() == pair[0].layers.keys() | pair[1].layers.keys()
    assert merged.metadata["lorarar_method"] == "learned"
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert not done.trained and [stage[1:] for stage in stages] == [(i, 6) for i in range(6)]
    assert list(done.seconds) == ["read", "stack", "load the hypernetwork", "merge", "write", "plot"]
    medians = coefficient_medians(bundle.layout, done.merged.coefficients or {})
    assert [median.group for median in medians] == ["qo_32x32", "qo_64x64"]
    assert sum(median.layers for median in medians) == done.merged.count("learned")
    with pytest.raises(InputError, match="would overwrite the input"):
        merge_files(bundle, content, style, style)
    for into in ({"out": bundle.path / "m.safetensors"}, {"out": out, "plot": bundle.path / "m.png"}):
        with pytest.raises(InputError, match="would overwrite the input"):
            merge_files(bundle, content, style, **into)


def test_files_are_merged_a_layer_at_a_time(
    bundle_folders: dict[tuple[str, str], Path], layout: Layout, tmp_path: Path
) -> None:
    """Two LoRAs of SDXL at rank 128 would take 8 GB in float32, beside the stack."""
    one = LoraLayer(np.ones((64, 1024), np.float32), np.ones((1024, 64), np.float32))
    outside = {f"text_encoder.text_model.encoder.layers.{index}.mlp.fc1": one for index in range(80)}
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, path in enumerate(files):
        write_lora(LoRA(random_lora(layout, (2,), number).layers | outside), path, dtype="fp16")
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    tracemalloc.start()
    try:
        done = merge_files(bundle, *files, tmp_path / "merged.safetensors", dtype="fp16")
        at_most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = 2 * len(outside) * (one.down.nbytes + one.up.nbytes)
    assert at_most < whole / 4
    assert all(isinstance(layer, StoredLayer) for layer in done.merged.lora.layers.values())


def test_a_merge_of_files_that_overflows_is_told_and_writes_nothing(
    bundle_folders: dict[tuple[str, str], Path], layout: Layout, tmp_path: Path
) -> None:
    """Outside the layout, where no coefficient tells it before the layer is read."""
    large = {TEXT: LoraLayer(np.full((4, 24), 1e30, np.float32), np.ones((24, 4), np.float32))}
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, path in enumerate(files):
        write_lora(LoRA(random_lora(layout, (2,), number).layers | large), path)
    bundle, out = Bundle.open(bundle_folders["onnx", "fp32"]), tmp_path / "merged.safetensors"
    with pytest.raises(
        InputError, match=r"the merge of text_encoder\..* is too large for float32; use smaller strengths"
    ):
        merge_files(bundle, *files, out, strengths=(1e10, 1e10))
    assert not out.exists()


def test_loras_made_in_python_are_checked_when_they_are_loaded(
    bundle_folders: dict[tuple[str, str], Path], layout: Layout
) -> None:
    """The layers outside the layout too, and any number of LoRAs."""
    session = Bundle.open(bundle_folders["onnx", "fp32"]).session()
    sound = random_lora(layout, (2,), 1).layers
    for wrong, says in (
        (LoraLayer(np.zeros((0, 24), np.float32), np.zeros((24, 0), np.float32)), "has rank 0"),
        (LoraLayer(np.ones((1, 24), np.float32), np.full((24, 1), np.nan, np.float32)), "holds NaN or infinity"),
    ):
        with pytest.raises(InputError, match=says):
            session.load([LoRA(sound | {TEXT: wrong})])


def test_a_picture_destroys_no_file_and_nothing_is_written_without_one(
    bundle_folders: dict[tuple[str, str], Path], pair: tuple[LoRA, LoRA], layout: Layout, tmp_path: Path
) -> None:
    content, style, out = (tmp_path / f"{name}.safetensors" for name in ("content", "style", "merged"))
    names = [name for name in random_lora(layout, (2,), 1).layers if name in pair[1].layers]
    for number, path in enumerate((content, style)):
        layers = {name: pair[1].layers[name] for name in names[number::2]}
        write_lora(LoRA(layers, source=path.name), path)
    linked, folder = tmp_path / "linked.png", tmp_path / "folder.png"
    linked.symlink_to(style)
    folder.mkdir()
    before = {path: path.read_bytes() for path in (content, style)}
    bundle = Bundle.open(bundle_folders["onnx", "fp32"])
    refused = {content: "is a PNG", out: "is a PNG", linked: "would overwrite the input", folder: "is a folder"}
    for plot, message in {**refused, tmp_path / "m.png": "share no learned layer"}.items():
        with pytest.raises(InputError, match=message):
            merge_files(bundle, content, style, out, plot=plot)
    assert {path: path.read_bytes() for path in (content, style)} == before
    assert not out.exists() and not (tmp_path / "m.png").exists()


def test_a_rank_over_the_bundles_is_refused(layout: Layout, bundle_folders: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(bundle_folders["coreml", "fp16"])
    with pytest.raises(InputError, match=r"\(rank 257\) need 257 ranks, but there is room for 256"):
        bundle.session().load([random_lora(layout, (257,), 1)])


def test_the_golden_merge(tmp_path: Path) -> None:
    """The committed bundle and files: what the Kotlin and Swift engines must reproduce."""
    from safetensors.numpy import load_file

    bundle = Bundle.open(GOLDEN / "bundle")
    assert [row.status for row in check_bundle(bundle)] == ["passed"]
    content, style = (read_lora(GOLDEN / f"{role}.safetensors") for role in ("content", "style"))
    merged = merged_by(bundle, (content, style), SCALES).lora
    expected = load_file(GOLDEN / "expected.safetensors")
    assert merged.layers.keys() == expected.keys()
    for name, delta in expected.items():
        limit = find_target("onnx").require("hypernet", "fp32").max_error * np.abs(delta).max()
        np.testing.assert_allclose(merged.layers[name].delta(), delta, rtol=0, atol=limit)


@pytest.mark.full
def test_the_golden_merge_can_be_made_again(tmp_path: Path) -> None:
    """LoRA files to the byte. PyTorch's last bits differ between CPUs, so the rest within fp32's rounding."""
    from safetensors.numpy import load_file

    make(tmp_path)
    for role in ("content", "style"):
        name = f"{role}.safetensors"
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
    for name in ("expected.safetensors", "bundle/golden/hypernet.safetensors"):
        made, kept = load_file(tmp_path / name), load_file(GOLDEN / name)
        assert made.keys() == kept.keys()
        for key, tensor in kept.items():
            np.testing.assert_allclose(made[key], tensor, rtol=0, atol=1e-6 * np.abs(tensor).max())
