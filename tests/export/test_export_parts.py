"""Text encoders and decoders as graphs, against transformers and diffusers."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from tiny_world import dense_delta, random_lora

from export.bundle import check_all, make_manifest, write_component, write_manifest
from export.components.text_encoders import TextEncoder, TextReference, text_graph
from export.components.vae import ImageDecoder, ImageReference, vae_graph
from export.graph import Graph, ImageSize
from export.options import HypernetOptions, ignore_progress
from export.rewrites import rewrite_for
from export.targets import TARGETS, find_target
from lorarar.base.names import load_layout, with_text_encoders
from lorarar.base.sources import open_pipeline, open_tiny_vae, require_latents
from lorarar.errors import FailedCheck, InputError
from lorarar.layout import TEXT_PARTS, Group, Layout, StackSize
from lorarar.lora import LoRA
from lorarar.stack import stack
from lorarar.toolchains import quiet_toolchains
from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.component import Component
from runtime_py.parity import psnr_db

RANK = 3
FP32 = [name for name, target in TARGETS.items() if "fp32" in target.precisions]
SMALL = ImageSize(pixels=32, latent=8, batch=2)


@pytest.mark.parametrize("end", [None, 2])
def test_a_text_encoder_is_transformers_in_every_row(tiny_pipeline: Path, end: int | None) -> None:
    """`end` 2 is what old configs say; the highest token number is the end then."""
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    for name in ("text_encoder", "text_encoder_2"):
        model = getattr(pipeline, name).eval()
        if end is not None:
            model.config.eos_token_id = end
            getattr(model, "text_model", model).eos_token_id = end
        graph, reference = TextEncoder(model), TextReference(model)
        whole = text_graph(name, model, [0] * 77, load_layout(str(tiny_pipeline)), StackSize(2, 2 * RANK))
        assert list(whole.inputs) == ["input_ids"], "no LoRA, where the layout has no layer of text encoders"
        for prompt in ("", "a sks dog", "a house in line drawing style " * 30):
            tokens = pipeline.tokenizer(prompt, padding="max_length", max_length=77, truncation=True)["input_ids"]
            ids = torch.tensor([tokens], dtype=torch.int32)
            with torch.inference_mode():
                have, want = graph(ids), reference(ids)
            assert set(have) == set(want) == set(whole.outputs)
            for key in want:
                torch.testing.assert_close(have[key], want[key], rtol=1e-4, atol=1e-5)
        few = torch.tensor([pipeline.tokenizer("a sks dog")["input_ids"]], dtype=torch.int32)
        with torch.inference_mode():  # fewer tokens than places, as of an encoder for long prompts
            have, want = graph(few), reference(few)
        torch.testing.assert_close(have["hidden_states"], want["hidden_states"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", FP32)
@pytest.mark.parametrize("name", TEXT_PARTS.values())
def test_a_text_encoder_with_loras_is_transformers_with_weights_added_by_hand(
    tiny_pipeline: Path, tmp_path: Path, target: str, name: str
) -> None:
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    encoders = {encoder: getattr(pipeline, encoder).eval() for encoder in TEXT_PARTS.values()}
    layout, size = with_text_encoders(load_layout(str(tiny_pipeline)), encoders), find_target(target).stack(RANK, 2)
    loras = [random_lora(layout, ranks, seed, 0.3, 0.3) for seed, ranks in enumerate(((1, RANK), (2,)))]
    tokens = pipeline.tokenizer("a sks dog", padding="max_length", max_length=77, truncation=True)["input_ids"]
    form, stock = find_target(target).adapter_form, copy.deepcopy(encoders[name])
    graph = text_graph(name, encoders[name], tokens, layout, size, form)
    component = written(tmp_path, graph, layout, target)
    draw, given = np.random.default_rng(5), stack(loras, layout, size.loras, size.rank).inputs
    given = {spec.name: given[spec.name] for spec in component.inputs if spec.name in given}
    given["input_ids"] = np.array([tokens], np.int32)
    live = {
        group.coefficients: draw.uniform(-1, 1.5, (1, len(group.modules), 2, group.in_features)).astype(np.float32)
        for group in layout.of(name)
    }
    runner = open_runner(Bundle.open(tmp_path), name)
    have = runner.run(given | live)
    off = {key: np.zeros_like(value) for key, value in live.items()}
    no_lora = {key: np.zeros_like(value) if key.startswith("adapter_") else value for key, value in given.items()}
    base, zeros = runner.run(no_lora | live), runner.run(given | off)
    want = run_by_hand(stock, tokens, loras, live, layout.of(name))
    for key, value in want.items():
        assert psnr_db(value, have[key]) > 100, key
        assert psnr_db(value, base[key]) < 40, "the LoRAs must change the states, or the comparison says nothing"
        np.testing.assert_array_equal(zeros[key], base[key])


def written(
    folder: Path, graph: Graph, layout: Layout, target: str, precision: str = "fp32", network: Any = None
) -> Component:
    """A bundle of one component, whose network is rewritten for the target if it is given."""
    folder.mkdir(exist_ok=True)
    offered = find_target(target)
    prepare = None if network is None else partial(rewrite_for, offered, network)
    entry = write_component(folder, graph, offered, precision, ignore_progress, prepare)
    write_manifest(folder, make_manifest(HypernetOptions(target, precision, RANK), layout, {graph.name: entry}))
    return Bundle.open(folder).component(graph.name)


def run_by_hand(
    model: Any, tokens: list[int], loras: list[LoRA], live: dict[str, np.ndarray], groups: tuple[Group, ...]
) -> dict[str, np.ndarray]:
    """What transformers gives with Σₖ ΔWₖ·diag(mₖ) added to the weights, in float64."""
    modules = {f"text_model.{n}": m for n, m in getattr(model, "text_model", model).named_modules()}
    for group in groups:
        for row, (module, layer) in enumerate(zip(group.modules, group.layers, strict=True)):
            columns = live[group.coefficients][0, row].astype(np.float64)
            parts = [dense_delta(lora.layers[layer]) * columns[k] for k, lora in enumerate(loras)]
            weight = modules[module].weight
            weight.data = (weight.data.double() + torch.from_numpy(sum(parts))).float()
    with torch.inference_mode():
        found = model(torch.tensor([tokens]), output_hidden_states=True)
    states = {"hidden_states": found.hidden_states[-2].numpy()}
    return states | ({"text_embeds": found.text_embeds.numpy()} if "text_embeds" in found else {})


@pytest.mark.parametrize("statistics", [False, True])
def test_the_decoder_is_diffusers(tiny_pipeline: Path, statistics: bool) -> None:
    """With what a pipeline does before and after it: one image, once as latents and once decoded."""
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    vae = pipeline.vae.eval()
    if statistics:
        vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0])
    noise = torch.randn(1, 4, 8, 8)
    # diffusers' schedulers use numpy in a way that it warns of
    with quiet_toolchains():
        latents, want = (
            pipeline("a", num_inference_steps=1, guidance_scale=1.0, latents=noise.clone(), output_type=kind).images
            for kind in ("latent", "pt")
        )
    with torch.inference_mode():
        for decoder in (ImageDecoder(vae), ImageReference(vae)):
            torch.testing.assert_close(decoder(latents)["image"], want, rtol=1e-5, atol=1e-6)
    assert tuple(want.shape) == vae_graph(vae, ImageSize(32, 8, 1)).outputs["image"]


def attentive_vae() -> Any:
    """An AutoencoderKL with attention in the middle of its decoder, which the tiny pipeline's lacks."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    )
    assert vae.decoder.mid_block.attentions[0] is not None
    return vae.eval()


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_s_decoder_is_the_same_function(target: str) -> None:
    """One as SDXL's, whose attention over the pixels has a group norm of its own, of three axes."""
    vae = attentive_vae()
    generator = torch.Generator().manual_seed(0)
    for parameter in vae.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    latents = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        want = vae.decode(latents, return_dict=False)[0]
        rewrite_for(find_target(target), vae)
        have = vae.decode(latents, return_dict=False)[0]
    assert psnr_db(want.numpy(), have.numpy()) > 110


def tiny_vae(folder: Path, blocks: int = 3) -> Path:
    """Seeded random weights; for the tiny pipeline's latents when it has 3 blocks."""
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * blocks,
        decoder_block_out_channels=(8,) * blocks,
        num_encoder_blocks=(1,) * blocks,
        num_decoder_blocks=(1,) * blocks,
    )
    vae.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("target", FP32)
def test_a_tiny_decoder_is_diffusers(tiny_pipeline: Path, tmp_path: Path, target: str) -> None:
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    vae = open_tiny_vae(str(tiny_vae(tmp_path / "vae")))
    rewrite_for(find_target(target), vae)
    pipeline.register_modules(vae=vae)
    graph = vae_graph(vae, SMALL)
    written(tmp_path / "bundle", graph, load_layout(str(tiny_pipeline)), target)
    session = open_runner(Bundle.open(tmp_path / "bundle"), "vae_decoder")
    latents = torch.randn(1, 4, 8, 8)
    have = session.run({"latents": latents.numpy()})["image"]
    with torch.inference_mode():
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor, return_dict=False)[0]
    want = pipeline.image_processor.postprocess(decoded, output_type="pt").numpy()
    assert psnr_db(want, have) > 100


def test_a_tiny_decoder_of_another_kind_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    cases = {
        str(tiny_pipeline / "vae"): "holds AutoencoderKL, not an AutoencoderTiny such as TAESDXL",
        str(tmp_path / "missing"): "no such folder; give one of an AutoencoderTiny",
    }
    for source, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_tiny_vae(source)
    with pytest.raises(InputError, match="to 8 pixels each, the base's have 4 and 4"):
        require_latents(open_tiny_vae(str(tiny_vae(tmp_path / "vae", 4))), 4, 4)


def test_a_decoder_in_fp16_that_overflows_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    """The same decoder passes as it is, and with weights whose results go near fp16's end, or over it, it is told."""
    layout = load_layout(str(tiny_pipeline))
    for scale, fault in ((1.0, None), (4e3, "another image may go over it"), (1e5, "is not finite in fp16")):
        vae = attentive_vae()
        vae.decoder.conv_in.weight.data *= scale
        folder = tmp_path / f"{scale:g}"
        written(folder, vae_graph(vae, ImageSize(16, 8, 1), owned=True), layout, "coreml", "fp16", vae)
        bundle = Bundle.open(folder)
        if fault is None:
            assert {row.status for row in check_all(bundle, ignore_progress)} == {"passed"}
            continue
        with pytest.raises(FailedCheck, match=f"vae_decoder: .*{fault}.*; leave out `vae_precision`"):
            check_all(bundle, ignore_progress)
