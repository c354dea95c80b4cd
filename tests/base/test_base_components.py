"""A base's components against diffusers' own pipeline, and every base that can't be had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from tiny_pipeline import save_image

from lorarar.base import names as bases
from lorarar.base import untrained
from lorarar.base.components import (
    Components,
    encode_images,
    encode_prompts,
    load_components,
    load_image,
    predict,
    target,
)
from lorarar.base.names import (
    CONFIGS,
    DEFAULT_BASE,
    MINIATURE,
    load_layout,
    miniature_folder,
    shipped_dataset,
    shipped_hypernet,
    unet_config,
)
from lorarar.base.sources import open_unet
from lorarar.errors import InputError
from lorarar.images import open_image

PROMPTS = ["a sks dog", "", "a cat in watercolor style " * 40]


@pytest.fixture(scope="module")
def pipe(tiny_pipeline: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(tiny_pipeline)


def images(count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_base_that_inpaints_is_no_base_of_text_alone(tiny_pipeline: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_pipeline)
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(InputError, match="the UNet takes 9 channels and the VAE has 4; give a `base`"):
        Components.of(pipeline, "tiny")


def test_prompts_as_the_pipeline_encodes_them(components: Components, pipe: Any) -> None:
    ours = encode_prompts(components, PROMPTS)
    embeds, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    assert torch.equal(ours.embeds, embeds)
    assert torch.equal(ours.pooled, pooled)
    assert ours.embeds.shape == (3, 77, 32 + 48)


def test_size_conditioning_as_the_pipelines(components: Components, pipe: Any) -> None:
    theirs = pipe._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, text_encoder_projection_dim=48)
    assert torch.equal(encode_prompts(components, ["a", "b"]).time_ids, theirs.repeat(2, 1))


def test_prediction_as_the_pipelines_unet(components: Components, pipe: Any) -> None:
    condition = encode_prompts(components, ["a sks dog", "a cat"])
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    timesteps = torch.tensor([7, 912])
    added = {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
    with torch.no_grad():
        theirs = pipe.unet(
            latents, timesteps, encoder_hidden_states=condition.embeds, added_cond_kwargs=added, return_dict=False
        )[0]
        torch.testing.assert_close(predict(components.unet, latents, timesteps, condition), theirs)
        other = predict(components.unet, latents, timesteps, condition.take(torch.tensor([1, 0])))
        first = predict(components.unet, latents, timesteps, condition.take(torch.tensor([0])).expand(2))
    assert not torch.allclose(other, theirs, atol=1e-4)
    torch.testing.assert_close(first[0], theirs[0])


def test_latents_as_diffusers_scales_them(components: Components, pipe: Any) -> None:
    pixels = images()
    distribution = pipe.vae.encode(pixels).latent_dist
    scale = pipe.vae.config.scaling_factor
    assert torch.equal(encode_images(components, pixels), distribution.mode() * scale)


def test_a_vae_with_a_shift(tiny_pipeline: Path) -> None:
    shifted = load_components(str(tiny_pipeline))
    plain = encode_images(shifted, images())
    shifted.vae.register_to_config(shift_factor=0.5)
    torch.testing.assert_close(encode_images(shifted, images()), plain - 0.5 * shifted.vae.config.scaling_factor)


def test_noise_by_the_formula(components: Components, pipe: Any) -> None:
    latents, noise = torch.randn((2, 2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 700])
    first, last = (pipe.scheduler.config[name] ** 0.5 for name in ("beta_start", "beta_end"))
    betas = torch.linspace(first, last, 1000, dtype=torch.float64) ** 2
    roots = torch.cumprod(1 - betas, 0).sqrt()
    # Rescaled so that nothing is left of the signal at the end (arXiv 2305.08891, Algorithm 1).
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    kept = (roots**2)[timesteps][:, None, None, None]
    signal, spread = kept.sqrt(), (1 - kept).sqrt()
    by_hand = (signal * latents + spread * noise).float()
    torch.testing.assert_close(components.noise.add_noise(latents, noise, timesteps), by_hand)

    from diffusers import DDPMScheduler

    plain = Components(**vars(components) | {"noise": with_prediction(components, "epsilon")})
    assert torch.equal(target(plain, latents, noise, timesteps), noise)

    velocity = Components(**vars(components) | {"noise": with_prediction(components, "v_prediction")})
    assert isinstance(velocity.noise, DDPMScheduler)
    torch.testing.assert_close(target(velocity, latents, noise, timesteps), (signal * noise - spread * latents).float())
    with pytest.raises(InputError, match="predicts 'sample'; epsilon and v_prediction can be trained"):
        target(
            Components(**vars(components) | {"noise": with_prediction(components, "sample")}), latents, noise, timesteps
        )


def with_prediction(components: Components, kind: str) -> Any:
    return type(components.noise).from_config(components.noise.config, prediction_type=kind)


def test_frozen_and_the_vae_in_fp32(tiny_pipeline: Path) -> None:
    half = load_components(str(tiny_pipeline), dtype=torch.bfloat16)
    networks = (*half.text_encoders, half.unet, half.vae)
    assert [next(network.parameters()).dtype for network in networks] == [torch.bfloat16] * 3 + [torch.float32]
    assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())
    assert not any(module.training for network in networks for module in network.modules())
    condition = encode_prompts(half, ["a sks dog"])
    latents = encode_images(half, images(1))
    assert latents.dtype == torch.float32
    assert predict(half.unet, latents, torch.tensor([5]), condition).dtype == torch.bfloat16


def test_resolution(tiny_pipeline: Path) -> None:
    assert load_components(str(tiny_pipeline)).resolution == 32
    larger = load_components(str(tiny_pipeline), resolution=48)
    assert encode_prompts(larger, ["a"]).time_ids.tolist() == [[48, 48, 0, 0, 48, 48]]
    for wrong in (0, -16, 8, 40, 16400, 16 * 10**12):
        with pytest.raises(InputError, match=f"a `resolution` of {wrong} doesn't fit this base; give a multiple of 16"):
            load_components(str(tiny_pipeline), resolution=wrong)


def test_image_is_cropped_to_its_middle(tmp_path: Path) -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = [255, 0, 128]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    image = load_image(tmp_path / "wide.png", 16)
    assert image.shape == (3, 16, 16)
    torch.testing.assert_close(image[:, 8, 8], torch.tensor([1.0, -1.0, 128 / 127.5 - 1]))
    assert (image[0] > 0.8).all()  # Lanczos reaches over the crop's edge


def test_image_as_diffusers_reads_it(tmp_path: Path) -> None:
    from diffusers.image_processor import VaeImageProcessor

    save_image(tmp_path / "a.png", seed=4)
    theirs = VaeImageProcessor().preprocess(Image.open(tmp_path / "a.png"))[0]
    torch.testing.assert_close(load_image(tmp_path / "a.png", 32), theirs)


def test_transparent_and_turned_images(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", 8) == 1).all()
    halves = Image.new("L", (8, 8))
    halves.paste(255, (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: the white upper half comes to the right
    halves.save(tmp_path / "turned.png", exif=exif)
    turned = load_image(tmp_path / "turned.png", 8)
    assert (turned[:, :, 4:] == 1).all()
    assert (turned[:, :, :4] == -1).all()


def test_an_image_of_16_bits_of_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256], [32768, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png")).tolist() == [[[0] * 3, [1] * 3], [[128] * 3, [255] * 3]]


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_an_image_with_a_damaged_exif_block(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0II*\0")
    with pytest.raises(InputError, match=rf"a\.{suffix}: not a whole PNG"):
        open_image(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_not_an_image(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(InputError, match=r"bad\.png: not a whole PNG"):
        load_image(tmp_path / "bad.png", 16)
    with pytest.raises(InputError, match="this is a folder; give an image's file"):
        open_image(tmp_path)


def test_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such image; check the path"):
        load_image(tmp_path / "gone.png", 16)


def test_a_cut_off_image(tmp_path: Path) -> None:
    save_image(tmp_path / "whole.png", seed=1, size=(256, 256))
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole PNG"):
        load_image(tmp_path / "cut.png", 16)


def no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def cut_weights(folder: Path) -> None:
    with (folder / "unet" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.truncate(1000)


def pickled(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def one_encoder(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    del index["text_encoder_2"], index["tokenizer_2"]
    (folder / "model_index.json").write_text(json.dumps(index))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no index": (no_index, "not a pipeline in diffusers format, it has no model_index.json; give its top folder"),
    "no unet": (lambda folder: shutil.rmtree(folder / "unet"), "diffusers can't load it .* whole SDXL pipeline"),
    "cut weights": (cut_weights, "diffusers can't load it .* whole SDXL pipeline"),
    "a pickle": (pickled, r"can't load it .* with its weights in \.safetensors files"),
    "no SDXL": (one_encoder, "not an SDXL pipeline, it has no tokenizer_2, text_encoder_2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders(tiny_pipeline: Path, tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    shutil.copytree(tiny_pipeline, tmp_path / "base")
    change(tmp_path / "base")
    with pytest.raises(InputError, match=message):
        load_components(str(tmp_path / "base"))


@pytest.mark.parametrize("base", ["", "nope", "../nope", "a/b/c", "https://x.org/y"])
def test_unknown_bases(base: str) -> None:
    with pytest.raises(InputError, match=r"unknown base .* give miniature, sdxl, koala-1b, koala-700m, a diffusers"):
        load_components(base)


@pytest.mark.parametrize("base", CONFIGS)
def test_named_bases_have_no_weights(base: str) -> None:
    with pytest.raises(InputError, match=f"the weights of {base} are not part of this toolkit; give .* or `untrained`"):
        load_components(base)


def test_untrained_is_for_named_bases(tiny_pipeline: Path) -> None:
    with pytest.raises(InputError, match="`untrained` is for the named bases miniature, sdxl"):
        load_components(str(tiny_pipeline), untrained=True)


def test_single_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a checkpoint in one file must be \.safetensors; convert it first"):
        load_components(str(tmp_path / "old.ckpt"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    save_file({"x": torch.zeros(1)}, tmp_path / "junk.safetensors")
    with pytest.raises(InputError, match="check that it is an SDXL checkpoint; diffusers also needs SDXL's configs"):
        load_components(str(tmp_path / "junk.safetensors"))


def test_a_single_file_of_another_kind_of_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable Diffusion 1.5 is told no sizes; diffusers needs its configs for the file, so a config stands in for it."""
    plain = SimpleNamespace(config=SimpleNamespace(addition_embed_type=None))
    monkeypatch.setattr(UNet2DConditionModel, "from_single_file", lambda path, torch_dtype: plain)
    save_file({"x": torch.zeros(1)}, tmp_path / "sd15.safetensors")
    with pytest.raises(InputError, match="its UNet is not told the image's size, as SDXL's is"):
        open_unet(str(tmp_path / "sd15.safetensors"), untrained=False)


def test_the_vae_of_a_single_file_is_not_rounded(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers needs SDXL's configs for a file, so folders stand in for what it opens."""
    whole = StableDiffusionXLPipeline.from_pretrained(tiny_pipeline)

    def network(_: str, torch_dtype: torch.dtype) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(tiny_pipeline, subfolder="vae", torch_dtype=torch_dtype)

    def pipeline(path: str, torch_dtype: torch.dtype, **given: object) -> StableDiffusionXLPipeline:
        parts = {
            **StableDiffusionXLPipeline.from_pretrained(tiny_pipeline, torch_dtype=torch_dtype).components,
            **given,
        }
        return StableDiffusionXLPipeline(**parts)

    monkeypatch.setattr(AutoencoderKL, "from_single_file", network)
    monkeypatch.setattr(StableDiffusionXLPipeline, "from_single_file", pipeline)
    save_file({"x": torch.zeros(1)}, tmp_path / "sdxl.safetensors")
    opened = load_components(str(tmp_path / "sdxl.safetensors"), dtype=torch.bfloat16)
    assert opened.unet.dtype == torch.bfloat16
    for name, weight in whole.vae.state_dict().items():
        assert torch.equal(opened.vae.state_dict()[name], weight), name


def test_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"nobody/nothing: diffusers can't load it .* check the id and the network"):
        load_components("nobody/nothing")


def test_the_miniature_by_name(tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "MINIATURE_FOLDER", tmp_path / "models" / "miniature")
    for use, instead in (
        (lambda: unet_config(MINIATURE), "`base`"),
        (lambda: load_layout(MINIATURE), "`base`"),
        (lambda: load_components(MINIATURE), "`base`"),
        (shipped_dataset, "`dataset`"),
        (shipped_hypernet, "`hypernet`"),
    ):
        # As in a package that was installed from a wheel: one sentence that says where to get it, and what else to do.
        with pytest.raises(InputError, match=rf"models/miniature: it comes with .* repository.*; clone .* {instead}"):
            use()
    shutil.copytree(tiny_pipeline, tmp_path / "models" / MINIATURE)
    assert miniature_folder() == (tmp_path / "models" / MINIATURE).resolve()
    assert load_components(MINIATURE).base == MINIATURE
    layout = load_layout(MINIATURE)
    assert layout.base == MINIATURE
    assert layout.groups == load_layout(str(tiny_pipeline)).groups


def test_unknown_bases_are_told_of_the_miniature() -> None:
    with pytest.raises(InputError, match="valid are miniature, sdxl, koala-1b, koala-700m or a folder"):
        unet_config("nope")
    assert DEFAULT_BASE in (MINIATURE, *CONFIGS)


def test_untrained_miniature_is_seeded() -> None:
    one, two = (load_components(MINIATURE, untrained=True, dtype=torch.bfloat16) for _ in range(2))
    weights = one.unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in two.unet.state_dict().items())
    assert next(one.vae.parameters()).dtype == torch.float32


def test_untrained_full_size_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The untrained path at a sixteenth of the width: every part fits the others."""
    small = {"block_out_channels": [32, 32, 64], "attention_head_dim": [2, 2, 4], "cross_attention_dim": 128}
    small |= {"projection_class_embeddings_input_dim": 6 * 256 + 64, "sample_size": 16}
    monkeypatch.setitem(CONFIGS, "koala-1b", CONFIGS["koala-1b"] | small)
    texts = tuple(
        config | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        for config in untrained.TEXT_ENCODERS
    )
    monkeypatch.setattr(untrained, "TEXT_ENCODERS", texts)
    monkeypatch.setattr(untrained, "VAE", untrained.VAE | {"block_out_channels": (32, 32, 32, 32)})
    built = load_components("koala-1b", untrained=True, dtype=torch.bfloat16)
    assert built.resolution == 128
    assert {str(p.dtype) for n in (built.unet, *built.text_encoders) for p in n.parameters()} == {"torch.bfloat16"}
    latents = encode_images(built, images(1).repeat(1, 1, 4, 4))
    condition = encode_prompts(built, ["a sks dog"])
    with torch.no_grad():
        output = predict(built.unet, latents, torch.tensor([3]), condition)
    assert output.shape == (1, 4, 16, 16)
    assert output.isfinite().all()
