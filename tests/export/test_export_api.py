"""The exports as a library's calls, their commands, and what a target's description is enough for."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_world import random_lora, tiny_hypernet

import export
from export import targets
from export.options import HypernetOptions, PipelineOptions
from export.source import chosen_hypernet, chosen_lora
from export.targets import TARGETS, find_target
from export.write import write_hypernet
from lorarar.base.sources import open_pipeline, open_unet
from lorarar.commands.export import main
from lorarar.errors import InputError
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import Layout
from lorarar.merging import learned_options, merge_loras
from runtime_py.bundle import Bundle


def test_a_hypernetwork_for_a_loaded_pipeline(tiny_pipeline: Path, tmp_path: Path) -> None:
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    said: list[str] = []
    report = export.hypernet(
        pipeline, target="onnx", untrained=True, rank=4, out=tmp_path / "out", on_progress=said.append
    )
    assert report.passed and report.out == tmp_path / "out" and [row.component for row in report.rows] == ["hypernet"]
    assert Bundle.open(report.out).manifest == report.manifest
    assert "\n" not in repr(report) and "1 of 1 checks passed" in repr(report)
    assert any("converting to onnx" in text for text in said)
    assert not any(value.is_meta for value in pipeline.unet.parameters())


def test_a_real_export_reads_each_file_for_its_sum_once(layout: Layout, hashed: list[str], tmp_path: Path) -> None:
    """Not once more to check it, and not once more at the end: a pipeline of SDXL has 14 GB."""
    write_hypernet(tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", 4), tmp_path / "bundle")
    assert sorted(hashed) == ["hypernet.onnx", "hypernet.safetensors"]


def test_a_loaded_unet_is_used_up(shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unet = open_unet(str(shallow_pipeline), untrained=False)[0]
    report = export.unet(unet, target="onnx", rank=2, resolution=64)
    assert report.out.parent == Path("build") and report.out.name.endswith("-onnx-fp32")
    inputs = {tensor["name"]: tensor["shape"] for tensor in report.manifest["components"]["unet"]["inputs"]}
    assert inputs["sample"] == [1, 4, 8, 8] and "adapter_qo_32x32_down" in inputs
    assert all(value.is_meta for value in unet.parameters())


def test_random_weights_are_advised_where_they_can_be_had() -> None:
    """Of a hypernetwork alone for any base; of one with its base, as a pipeline has them, for named bases."""
    with pytest.raises(InputError, match=r"a hypernetwork for sdxl is needed: .*, or `untrained` to try it out"):
        chosen_hypernet("sdxl", None, untrained=False, alone=False)
    with pytest.raises(InputError, match=r"a hypernetwork for my-folder is needed: .*, or `untrained` to try it out"):
        chosen_hypernet("my-folder", None, untrained=False)
    with pytest.raises(InputError, match=r"a hypernetwork for my-folder is needed: give `hypernet`, .* trained one$"):
        chosen_hypernet("my-folder", None, untrained=False, alone=False)


def test_two_loras_are_merged_into_random_weights_by_a_random_hypernetwork(layout: Layout) -> None:
    pair = [random_lora(layout, (2,), seed) for seed in (1, 2)]
    merged = chosen_lora("sdxl", layout, pair, None, untrained=True)
    assert merged is not None and set(merged.layers) == set(pair[0].layers)
    network = tiny_hypernet().predictor
    assert isinstance(network, Hypernetwork)
    given = chosen_lora("sdxl", layout, pair, network, untrained=True)
    wanted = merge_loras(*pair, layout, "learned", learned_options(network)).lora
    assert given is not None
    for name, layer in wanted.layers.items():
        assert (given.layers[name].delta() == layer.delta()).all()


@pytest.mark.parametrize("form", ["object", "path", "text", "state dict"])
def test_one_lora_to_fuse_has_many_forms(layout: Layout, tmp_path: Path, form: str) -> None:
    lora, path = random_lora(layout, (2,), 1), tmp_path / "content.safetensors"
    lora.save(path)
    found = chosen_lora(
        "miniature",
        layout,
        {"object": lora, "path": path, "text": str(path), "state dict": lora.to_state_dict()}[form],
        None,
        untrained=False,
    )
    assert found is not None and found.layers.keys() == lora.layers.keys()


def test_loras_to_fuse_that_are_none_are_refused(layout: Layout) -> None:
    """As an empty list of found files: else a UNet with adapter inputs would be made."""
    with pytest.raises(InputError, match="`fused` names no LoRA"):
        chosen_lora("miniature", layout, [], None, untrained=False)


def test_a_network_that_no_export_can_run_is_refused() -> None:
    network = tiny_hypernet().predictor
    assert isinstance(network, Hypernetwork)
    with pytest.raises(InputError, match=r"`hypernet` has weights of half precision; give hypernet.float\(\)"):
        chosen_hypernet("miniature", copy.deepcopy(network).half(), untrained=False)
    with pytest.raises(InputError, match=r"`hypernet` is on meta; .* give hypernet.to\('cpu'\)"):
        chosen_hypernet("miniature", copy.deepcopy(network).to("meta"), untrained=False)


def test_a_network_at_hand_is_taken_as_it_is() -> None:
    network = tiny_hypernet().predictor
    found = chosen_hypernet("no-base", network, untrained=False)
    assert found is not None and found.predictor is network


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "a target": (lambda: export.hypernet(target="tflite"), "unknown `target` 'tflite'"),
    "a precision": (lambda: export.unet(target="onnx", precision="w6"), "`precision` is 'w6'.*none between"),
    "a number of LoRAs": (lambda: export.hypernet(target="onnx", loras=9), "`loras` is 9; valid are 2 to 8"),
    "parts": (lambda: export.unet(target="onnx", adapt="all"), "`adapt` is 'all'; valid are attention and transformer"),
    "a rank": (lambda: export.pipeline(target="onnx", rank=0), "`rank` is 0"),
    "a batch": (lambda: export.unet(target="onnx", batch=3), "`batch` is 3"),
    "a base": (lambda: export.hypernet(3, target="onnx"), "`base` is of the type int"),
    "a base of another library": (
        lambda: export.unet(SimpleNamespace(config=SimpleNamespace(hidden_size=8)), target="onnx"),
        "`base` is of the type SimpleNamespace",
    ),
    "a precision that is none": (lambda: export.unet(target="onnx", precision=""), "`precision` is ''"),
    "a rank without adapters": (lambda: export.unet(target="onnx", fused="a", rank=2), "`rank` is that of adapter"),
    "LoRAs without adapters": (lambda: export.unet(target="onnx", fused="a", loras=4), "`loras` is that of adapter"),
    "parts without adapters": (
        lambda: export.unet(target="onnx", fused="a", adapt="attention"),
        "`adapt` is that of adapter",
    ),
    "three LoRAs": (lambda: export.unet(target="onnx", fused=["a", "b", "c"]), "`fused` has 3 LoRAs"),
    "a hypernetwork for nothing": (lambda: export.unet(target="onnx", hypernet="h"), "`hypernet` merges a content"),
    "two hypernetworks": (lambda: export.hypernet(target="onnx", hypernet="h", untrained=True), "`hypernet`.*exclude"),
    "steps": (lambda: options(steps=0), "`steps` is 0"),
    "no guidance": (lambda: options(guidance=0.5), "`guidance` is 0.5"),
    "no share": (lambda: options(rescale=1.5), "`guidance_rescale` is 1.5; give a number from 0 to 1"),
}


def options(steps: int = 4, guidance: float = 2.0, rescale: float = 0.0) -> PipelineOptions:
    from export.graph import ImageSize

    return PipelineOptions("onnx", "fp32", 4, ImageSize(32, 8, 1), steps, guidance, rescale)


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refusal_names_the_parameter(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, message = REFUSALS[what]
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "--" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_loaded_base_is_not_made_of_random_weights(shallow_pipeline: Path) -> None:
    unet = open_unet(str(shallow_pipeline), untrained=False)[0]
    with pytest.raises(InputError, match="`base` is loaded already"):
        export.unet(unet, target="onnx", untrained=True)
    with pytest.raises(InputError, match="`base` is a UNet alone"):
        export.pipeline(unet, target="onnx", untrained=True)


def test_the_functions_are_not_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("hypernet", "unet", "pipeline"):
        with pytest.raises(SystemExit):
            main([kind, "--help"])
        said = capsys.readouterr().out
        assert f"usage: lorarar export {kind}" in said and "fp16 for coreml" in said
        assert ("with --fused fused-" in said) == (kind == "unet") and "for qnn with -CHIP" in " ".join(said.split())
        assert callable(getattr(export, kind))
    with pytest.raises(InputError, match="required: WHAT"):
        main([])
    assert set(dir(export)) >= {"hypernet", "unet", "pipeline", "Report"}


def test_the_modules_run_as_commands() -> None:
    line = [sys.executable, "-m", "export.hypernet"]
    wrong = subprocess.run([*line, "--target", "tflite"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: unknown --target 'tflite'")


def test_a_target_is_one_description(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX with another suffix and form, and one precision: nothing else holds a fact of a target."""
    other = replace(
        find_target("onnx"),
        suffix=".model",
        hypernet_form="plain",
        tolerances={"hypernet": {"fp32": TARGETS["onnx"].require("hypernet", "fp32")}},
    )
    monkeypatch.setitem(targets.TARGETS, "onnx", other)
    report = write_hypernet(tiny_hypernet(), layout, HypernetOptions("onnx", "fp32", 4), tmp_path / "out")
    assert report.manifest["components"]["hypernet"]["file"] == "hypernet.model"
    with pytest.raises(InputError, match="`precision` is 'fp16'; onnx offers the hypernet in fp32"):
        export.hypernet(target="onnx", precision="fp16")


def test_core_ml_shows_no_bars(layout: Layout, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_hypernet(tiny_hypernet(), layout, HypernetOptions("coreml", "fp16", 4), tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    from tqdm import tqdm

    assert list(tqdm(range(3), disable=True)) == [0, 1, 2] and not tqdm([]).disable
