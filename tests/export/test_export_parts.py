"""Text encoders and decoders as graphs, against transformers and diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from export import HypernetOptions
from export.bundle import make_manifest, write_component, write_manifest
from export.components.text_encoders import TextEncoder, TextReference, text_graph
from export.components.vae import ImageDecoder, ImageReference, vae_graph
from export.graph import ImageSize
from export.rewrites import rewrite_for
from export.targets import find_target
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline, open_tiny_vae
from lorarar.errors import InputError
from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.parity import psnr_db

RANK = 3
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
        for prompt in ("", "a sks dog", "a house in line drawing style " * 30):
            tokens = pipeline.tokenizer(prompt, padding="max_length", max_length=77, truncation=True)["input_ids"]
            ids = torch.tensor([tokens], dtype=torch.int32)
            with torch.inference_mode():
                have, want = graph(ids), reference(ids)
            assert set(have) == set(want) == set(text_graph(name, model, tokens).outputs)
            for key in want:
                torch.testing.assert_close(have[key], want[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("statistics", [False, True])
def test_the_decoder_is_diffusers(tiny_pipeline: Path, statistics: bool) -> None:
    vae = open_pipeline(str(tiny_pipeline), False, torch.float32).vae.eval()
    if statistics:
        vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0])
    latents = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        have, want = ImageDecoder(vae)(latents)["image"], ImageReference(vae)(latents)["image"]
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-6)
    assert tuple(have.shape) == vae_graph(vae, ImageSize(32, 8, 1)).outputs["image"]


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


@pytest.mark.parametrize("target", ["onnx", "coreml", "executorch"])
def test_a_tiny_decoder_is_diffusers(tiny_pipeline: Path, tmp_path: Path, target: str) -> None:
    pipeline = open_pipeline(str(tiny_pipeline), False, torch.float32)
    vae = open_tiny_vae(str(tiny_vae(tmp_path / "vae")), 4, 4)
    rewrite_for(find_target(target), vae)
    pipeline.register_modules(vae=vae)
    graph = vae_graph(vae, SMALL)
    (tmp_path / "bundle").mkdir()
    entry = write_component(tmp_path / "bundle", graph, find_target(target), "fp32", lambda _: None)
    layout = load_layout(str(tiny_pipeline))
    data = make_manifest(HypernetOptions(target, "fp32", RANK), layout, {"vae_decoder": entry})
    write_manifest(tmp_path / "bundle", data)
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
        str(tiny_vae(tmp_path / "vae", 4)): "to 8 pixels each, the base's have 4 and 4",
    }
    for source, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_tiny_vae(source, 4, 4)
