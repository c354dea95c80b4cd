"""Bases from elsewhere: loaded already in whatever numbers, from the hub or one file, and those that are no SDXL."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import export
from export import source, write
from export.golden import write_golden_image
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline, open_unet
from lorarar.errors import InputError
from lorarar.layout import UNET
from lorarar.lora import LoRA, LoraLayer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pipeline_in_half_precision_draws_as_its_weights_do_in_fp32(
    shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    def draw(pipeline: Any, layout: Any, stack: Any, size: Any, path: Path, tile: int) -> None:
        write_golden_image(pipeline, layout, stack, size, tmp_path / "image", tile)
        raise KeyboardInterrupt  # the rest of an export takes a minute

    monkeypatch.setattr(write, "write_golden_image", draw)
    images = []
    for wide in (torch.float32, dtype):
        pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32).to(dtype).to(wide)
        with pytest.raises(KeyboardInterrupt):
            export.pipeline(pipeline, target="onnx", untrained=True, rank=2, out=tmp_path / "out")
        images.append(load_file(tmp_path / "image"))
    for key, value in images[0].items():
        np.testing.assert_array_equal(value, images[1][key], err_msg=key)


def test_a_loaded_base_that_is_no_sdxl_is_refused(shallow_pipeline: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = open_unet(str(shallow_pipeline), untrained=False)[0]
    untold = UNet2DConditionModel.from_config({**unet.config, "addition_embed_type": None})
    with pytest.raises(InputError, match="its UNet is not told the image's size"):
        export.unet(untold, target="onnx", rank=2)
    guided = UNet2DConditionModel.from_config({**unet.config, "time_cond_proj_dim": 8})
    with pytest.raises(InputError, match="its UNet is told the guidance, as LCM's is"):
        export.unet(guided, target="onnx", rank=2)
    pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
    pipeline.register_modules(text_encoder=None)
    with pytest.raises(InputError, match="not an SDXL pipeline, it has no text_encoder; give a whole one"):
        export.pipeline(pipeline, target="onnx", untrained=True, rank=2)


def test_a_loaded_base_with_loras_on_or_of_another_task_is_refused(shallow_pipeline: Path) -> None:
    from diffusers import StableDiffusionXLImg2ImgPipeline
    from peft import LoraConfig

    pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
    with pytest.raises(InputError, match="`base` is a StableDiffusionXLImg2ImgPipeline"):
        export.pipeline(StableDiffusionXLImg2ImgPipeline.from_pipe(pipeline), target="onnx", untrained=True, rank=2)
    pipeline.text_encoder.peft_config = {"default": LoraConfig(r=2)}  # as load_lora_weights leaves it
    with pytest.raises(InputError, match="`base` has LoRAs on; take them off"):
        export.pipeline(pipeline, target="onnx", untrained=True, rank=2)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    for made in (export.pipeline, export.unet):
        with pytest.raises(InputError, match="`base` has LoRAs on; take them off"):
            made(pipeline, target="onnx", rank=2)


@pytest.mark.parametrize("network", ["unet", "text_encoder", "text_encoder_2", "vae"])
def test_a_loaded_base_that_is_not_on_the_cpu_is_refused(network: str, shallow_pipeline: Path, tmp_path: Path) -> None:
    pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
    getattr(pipeline, network).to("meta")  # which stands in for a GPU
    with pytest.raises(InputError, match=r"`base` is on meta; an export computes on the CPU: give base\.to\('cpu'\)"):
        export.pipeline(pipeline, target="onnx", untrained=True, rank=2, out=tmp_path / "out")
    if network == "unet":
        with pytest.raises(InputError, match="`base` is on meta"):
            export.unet(pipeline.unet, target="onnx", rank=2, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_loaded_base_is_taken_once(
    whole: bool, shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that was stopped may have added a LoRA already, which another one would add again."""
    pipeline, out = open_pipeline(str(shallow_pipeline), False, torch.float32), tmp_path / "out"
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    width = pipeline.unet.get_submodule(layer).in_features
    lora = LoRA({UNET + layer: LoraLayer(np.ones((1, width), np.float32), np.ones((width, 1), np.float32))})

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "_golden_image", lambda *_: {})
    monkeypatch.setattr(write, "text_graph", stopped)
    monkeypatch.setattr(write, "_write_unet", stopped)
    made = {
        True: partial(export.pipeline, pipeline, target="onnx", untrained=True, rank=2, out=out),
        False: partial(export.unet, pipeline.unet, target="onnx", fused=lora, out=out),
    }
    with pytest.raises(KeyboardInterrupt):
        made[whole]()
    for again in made.values():
        with pytest.raises(InputError, match="`base` was used up by an export"):
            again()


def test_a_lora_that_can_not_be_fused_leaves_a_loaded_base_as_it_was(shallow_pipeline: Path, tmp_path: Path) -> None:
    unet = open_unet(str(shallow_pipeline), untrained=False)[0]
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    width = unet.get_submodule(layer).in_features
    down, up = np.ones((1, width), np.float32), np.ones((width, 1), np.float32)
    wrong = {
        "holds NaN or infinity": LoRA({UNET + layer: LoraLayer(down, up * np.float32(np.nan))}),
        "are no layers of this UNet": LoRA({f"{UNET}nowhere": LoraLayer(down, up)}),
        "is for a weight of shape": LoRA({UNET + layer: LoraLayer(down[:, 1:], up)}),
    }
    before = {name: weight.clone() for name, weight in unet.state_dict().items()}
    for says, lora in wrong.items():
        with pytest.raises(InputError, match=says):
            export.unet(unet, target="onnx", fused=lora, out=tmp_path / "out")
        source.chosen_hypernet(unet, None, untrained=True)  # which refuses one that was used up
    assert all(torch.equal(weight, before[name]) for name, weight in unet.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_base_has_the_shipped_network_where_it_is_the_shipped_miniature(
    shallow_pipeline: Path, tmp_path: Path
) -> None:
    """Known by where it was loaded from: a folder of the same name is another base."""
    shipped = open_unet("miniature", untrained=False)[0]
    found = source.chosen_hypernet(shipped, None, untrained=False)
    assert found is not None and found.source == "hypernet.safetensors"
    (tmp_path / "miniature").symlink_to(shallow_pipeline)
    other = open_unet(str(tmp_path / "miniature"), untrained=False)[0]
    with pytest.raises(InputError, match="a hypernetwork for another base in a folder named miniature is needed"):
        source.chosen_hypernet(other, None, untrained=False)


@pytest.mark.parametrize(("base", "name"), [("owner/name", "owner/name"), ("FILE", "model.safetensors")])
def test_a_base_without_a_folder_has_the_layout_of_its_unet(
    shallow_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, name: str
) -> None:
    """From the hub, or in one file; nothing here is downloaded, so the UNet is a folder's."""
    file = tmp_path / "model.safetensors"
    file.touch()
    opened = open_unet(str(shallow_pipeline), untrained=False)
    monkeypatch.setattr(source, "open_unet", lambda *_, **__: opened)
    monkeypatch.chdir(tmp_path)
    given = str(file) if base == "FILE" else base
    layout = source.base_layout(given, "transformer")
    assert layout == replace(load_layout(str(shallow_pipeline), "transformer"), base=name)
    report = export.hypernet(given, target="onnx", untrained=True, rank=2)
    assert report.out == Path("build") / f"hypernet-{name.replace('/', '-')}-onnx-fp32"
    assert report.manifest["base"] == name
