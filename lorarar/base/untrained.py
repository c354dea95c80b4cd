"""Named bases of full size with seeded random weights, for dry runs, and their shapes without weights, for plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from lorarar.base.fresh import MINIATURE_SCALE, Sizes, build_tokenizer, new_pipeline, text_encoders
from lorarar.base.names import CONFIGS, MINIATURE, unet_config
from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SEED = 0
SDXL_SCALE = 8  # the side in image pixels of one latent pixel, of SDXL and KOALA
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""The components of a pipeline that have weights."""

# An untrained base has no tokenizer file; a few captions are enough for one that cuts any prompt into known pieces.
_CAPTIONS = ("a photo of a dog", "a sks cat in watercolor painting style", "an oil painting of a house")

_VOCABULARY = 49408  # CLIP's, which is a twentieth of the second encoder

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
# SDXL's text encoders: CLIP ViT-L/14 and OpenCLIP ViT-bigG/14.
TEXT_ENCODERS: tuple[dict[str, Any], dict[str, Any]] = (
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"},
)


def untrained_pipeline(base: str, dtype: torch.dtype, unet: bool) -> Any:
    """Make a named base as a StableDiffusionXLPipeline, its VAE in fp32; without `unet` its place is empty."""
    _require_named(base)
    tokenizer = build_tokenizer(_CAPTIONS)
    if base == MINIATURE:
        pipeline: Any = new_pipeline(Sizes(), tokenizer, SEED)
        for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet):
            network.to(dtype)
        return pipeline
    return _full_size(CONFIGS[base] if unet else None, tokenizer, dtype)


def untrained_unet(base: str, dtype: torch.dtype) -> tuple[Any, int]:
    """Make the UNet alone of a named base; return it, and the side in image pixels of one latent pixel."""
    with quiet_toolchains():
        from diffusers import UNet2DConditionModel
    _require_named(base)
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.manual_seed(SEED)
        unet = UNet2DConditionModel.from_config(unet_config(base))
    return unet, MINIATURE_SCALE if base == MINIATURE else SDXL_SCALE


def meta_networks(base: str) -> dict[str, Any]:
    """Build SDXL's or a KOALA's networks by their pipeline names, on the meta device: shapes without weights."""
    tokenizer = build_tokenizer(_CAPTIONS)
    with quiet_toolchains(), torch.device("meta"):
        return dict(zip(NETWORKS, _networks(CONFIGS[base], tokenizer, torch.float32), strict=True))


def _require_named(base: str) -> None:
    if base not in (MINIATURE, *CONFIGS):
        raise InputError(f"`untrained` is for the named bases {', '.join([MINIATURE, *CONFIGS])}, not for {base!r}")


def _full_size(config: dict[str, Any] | None, tokenizer: CLIPTokenizer, dtype: torch.dtype) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    first, second, unet, vae = _networks(config, tokenizer, dtype)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(vae, first, second, tokenizer, tokenizer, unet, scheduler, add_watermarker=False)


def _networks(config: dict[str, Any] | None, tokenizer: CLIPTokenizer, dtype: torch.dtype) -> tuple[Any, ...]:
    """Make SDXL's networks in the order of NETWORKS; without a config no UNet."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        vae = AutoencoderKL(**VAE)
        with _default_dtype(dtype):
            unet = UNet2DConditionModel.from_config(config) if config else None
            first, second = text_encoders(tokenizer, TEXT_ENCODERS, _VOCABULARY)
    return first, second, unet, vae


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build networks in `dtype` at once: SDXL's UNet in fp32 alone is 10 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
