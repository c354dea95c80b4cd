"""Estimates: counted operations against PyTorch's own counter, bounds by hand, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_bundles import RANK, SharedPipelines, SharedUNets
from tiny_world import BUNDLE_RANK, tiny_hypernet
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import device as device_command
from benchmarks import estimate as command
from benchmarks.bounds import ComponentWork, bound, count_work, find_phone, peak_operations, phones
from benchmarks.record import read_records
from export.components.unet import AdaptedUNet, unet_graph
from export.graph import ImageSize
from export.options import ADAPTED
from export.rewrites import rewrite_for
from export.targets import find_target
from lorarar.base.names import load_layout
from lorarar.base.sources import open_unet
from lorarar.errors import InputError
from lorarar.layout import Layout, StackSize
from runtime_py.bundle import Bundle

STACK = StackSize(2, 2 * RANK)  # of the shared UNets


def test_a_unets_operations_are_those_that_pytorch_counts(shallow_pipeline: Path, shared_unets: SharedUNets) -> None:
    unet = open_unet(str(shallow_pipeline), untrained=False)[0].eval()
    graph = unet_graph(unet, load_layout(str(shallow_pipeline), ADAPTED), STACK, ImageSize(32, 8, 1))
    rewrite_for(find_target("executorch"), unet)  # PyTorch's counter overlooks its fused attention
    inputs = {name: torch.zeros(graph.fixed(shape)) for name, shape in graph.inputs.items()}
    assert isinstance(graph.module, AdaptedUNet)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        graph.module(**inputs)
    bundle = shared_unets["onnx", "fp32"]
    found = count_work(bundle, "unet")
    assert found.operations == counter.get_total_flops()
    adapter = sum(value.numel() * 4 for value in inputs.values())
    assert found.read_bytes == bundle.component("unet").entry["bytes"] + adapter


def test_a_hypernetworks_operations(layout: Layout, bundle_folders: dict[tuple[str, str], Path]) -> None:
    """Both halves of the input layer times all rows of the stack, these times down, and the output layer."""
    hidden, rows, expected = tiny_hypernet().predictor.config.hidden, 2 * BUNDLE_RANK, 0
    for group in layout.with_kinds(tiny_hypernet().predictor.config.learned):
        inp, out = group.in_features, group.out_features
        expected += 2 * len(group.modules) * hidden * (2 * out * rows + rows * inp + 2 * inp)
    for target in ("onnx", "coreml"):
        assert count_work(Bundle.open(bundle_folders[target, "fp32"]), "hypernet").operations == expected


def test_a_bound_is_the_slower_of_the_two() -> None:
    assert bound(ComponentWork(1000, 10), 100.0, 10.0) == (10.0, "compute")
    assert bound(ComponentWork(1000, 1000), 100.0, 10.0) == (100.0, "memory bandwidth")


def test_peaks_by_hand() -> None:
    pixel = find_phone("pixel 9")
    expected = 2e9 * 4 * (3.1 * 4 + 3 * 2.6 * 2 + 4 * 1.92 * 2)
    assert peak_operations(pixel, "fp32") == pytest.approx(expected)
    assert peak_operations(pixel, "w8") == peak_operations(pixel, "fp16") == pytest.approx(2 * expected)
    assert peak_operations(find_phone("iPhone 15 Pro"), "fp16") == 35e12


def test_every_number_of_a_phone_has_a_source() -> None:
    for phone in phones():
        numbers = {key for key in ("tops", "memory_gb_per_s", "ram_gb", "cores") if key in phone}
        assert numbers <= phone["sources"].keys(), phone["name"]
        assert ("pipes" in phone["sources"]) == ("cores" in phone)


def test_the_command_makes_records_that_say_estimated(
    bundle_folders: dict[tuple[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.json"
    given = ["--bundle", str(bundle_folders["onnx", "fp32"]), "--component", "hypernet", "--out", str(out)]
    assert device_command.main([*given, "--estimate", "Pixel 9"]) == 0
    (guess,) = read_records(out)
    assert (guess["kind"], guess["device"]["model"], guess["runs"]["n"]) == ("estimated", "Pixel 9", 0)
    assert guess["estimate"]["sources"] == list(find_phone("Pixel 9")["sources"].values())
    said = capsys.readouterr().out
    assert "ESTIMATED" in said and f"≥ {device_command._ms(guess['estimate']['latency_s'])}" in said
    assert "a lower bound" in said and "equal" not in said


def test_the_bound_is_held_against_a_run_on_this_computer(
    shared_unets: SharedUNets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a UNet, which is far from its bound: on a busy machine, one that is near may seem to beat it."""
    out = tmp_path / "r.json"
    assert command.main([str(shared_unets["onnx", "fp32"].path), "--out", str(out)]) == 0
    (real,) = read_records(out)
    assert real["kind"] == "measured"
    said = capsys.readouterr().out
    bound_ms, p50_ms = float(said.split("at least ")[1].split()[0]), float(said.split("measured p50 ")[1].split()[0])
    assert real["runs"]["p50_s"] * 1e3 == pytest.approx(p50_ms, rel=0.01)
    over = float(said.split("ms, ")[1].split()[0])
    assert p50_ms / bound_ms == pytest.approx(over, rel=0.05) and over > 1


@pytest.mark.parametrize(
    ("target", "phone", "said"),
    [
        ("coreml", "Pixel 9", "estimates for android need a bundle whose target is onnx"),
        ("onnx", "iPhone 15 Pro", "estimates for ios need a bundle whose target is coreml"),
        ("executorch", "Pixel 9", "an ExecuTorch program keeps its operations"),
    ],
)
def test_what_can_not_be_estimated_is_told(
    target: str,
    phone: str,
    said: str,
    bundle_folders: dict[tuple[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = bundle_folders[target, "fp16" if target == "coreml" else "fp32"]
    given = ["--bundle", str(folder), "--component", "hypernet", "--out", str(tmp_path / "r.json")]
    assert device_command.main([*given, "--estimate", phone]) == 1
    assert said in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_text_encoders_and_a_missing_onnx_are_told(
    shared_pipelines: SharedPipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shared_pipelines["onnx"]
    with pytest.raises(InputError, match="which rows are read"):
        count_work(bundle, "text_encoder")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="onnx is not installed"):
        count_work(bundle, "unet")


def test_an_unknown_phone_is_told(bundle_folders: dict[tuple[str, str], Path]) -> None:
    given = ["--bundle", str(bundle_folders["onnx", "fp32"]), "--estimate", "Nokia 3310"]
    with pytest.raises(InputError, match="unknown phone 'Nokia 3310'; known are Pixel 9, "):
        device_command.main(given)


def damaged(model: Any) -> bytes:
    return b"no model"


def without_sizes(model: Any) -> bytes:
    del model.graph.value_info[:]
    return model.SerializeToString()


def without_inputs(model: Any) -> bytes:
    for node in model.graph.node:
        if node.op_type == "MatMul":
            del node.input[:]
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_sizes, "is not stored; export the bundle again"),
        (damaged, "it is damaged, or no ONNX model; export the bundle again"),
        (without_inputs, "it is damaged, or no ONNX model; export the bundle again"),
    ],
)
def test_a_graph_that_can_t_be_counted_is_told(
    change: Callable[[Any], bytes], says: str, bundle_folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    import onnx

    from runtime_py.hashes import tree_sha256
    from runtime_py.manifest import MANIFEST

    source, folder = bundle_folders["onnx", "fp32"], tmp_path / "b"
    (folder / "golden").mkdir(parents=True)
    for file in (MANIFEST, "golden/hypernet.safetensors"):
        (folder / file).write_bytes((source / file).read_bytes())
    (folder / "hypernet.onnx").write_bytes(change(onnx.load(source / "hypernet.onnx")))
    manifest = json.loads((folder / MANIFEST).read_text())
    entry = manifest["components"]["hypernet"]
    entry["bytes"], entry["sha256"] = tree_sha256(folder / "hypernet.onnx")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=says):
        count_work(Bundle.open(folder), "hypernet")
