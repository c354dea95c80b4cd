"""Where a base comes from: the miniature, a diffusers folder, a single file, a hub id, or seeded random weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorarar.bases import CONFIGS, MINIATURE, miniature_folder
from lorarar.cli import InputError, missing_toolchain, quiet_toolchains

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

UNTRAINED_SEED = 0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# An untrained base has no tokenizer file; a few captions are enough for one that cuts any prompt into known pieces.
_CAPTIONS = ("a photo of a dog", "a sks cat in watercolor painting style", "an oil painting of a house")

_VAE: dict[str, Any] = {
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
_TEXT: tuple[dict[str, Any], dict[str, Any]] = (
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "hidden_act": "quick_gelu"},
    {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"},
)


def open_pipeline(base: str, untrained: bool, dtype: torch.dtype) -> Any:
    """The base as a StableDiffusionXLPipeline, its VAE in fp32, the rest in `dtype`. InputError as load_components.

    Only safetensors are read: weights come from strangers, and a pickle can run code.
    """
    try:
        with quiet_toolchains():
            from diffusers import StableDiffusionXLPipeline
    except ModuleNotFoundError:
        raise missing_toolchain("diffusers", "train") from None
    if untrained:
        return _untrained(base, dtype)
    if base in CONFIGS:
        raise InputError(
            f"the weights of {base} are not part of this toolkit; give --base a diffusers folder or a hub id, "
            "or --untrained for a dry run with random weights"
        )
    path = miniature_folder() if base == MINIATURE else Path(base)
    if not path.exists() and not _HUB_ID.fullmatch(base):
        valid = ", ".join([MINIATURE, *CONFIGS])
        raise InputError(
            f"unknown base {base!r}: no such folder or file; give {valid}, a diffusers folder, a .safetensors "
            "checkpoint or a hub id like owner/name"
        )
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise InputError(f"{path}: not a pipeline in diffusers format, it has no model_index.json; give its top folder")
    source = str(path) if path.exists() else base
    with _explained(base, is_local=path.exists()), quiet_toolchains(), _no_progress_bars():
        if path.is_file():
            _check_single_file(path)
            pipeline = StableDiffusionXLPipeline.from_single_file(source, torch_dtype=dtype)
            pipeline.vae.to(torch.float32)
        else:
            dtypes = {"vae": torch.float32, "default": dtype}
            pipeline = StableDiffusionXLPipeline.from_pretrained(source, torch_dtype=dtypes, use_safetensors=True)
    return pipeline


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without the loaders' own bars: one for each part of the pipeline says nothing to a user."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [item for item in (diffusers_logging, transformers_logging) if item.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()


def _check_single_file(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: a checkpoint in one file must be .safetensors; convert it first")


@contextmanager
def _explained(base: str, is_local: bool) -> Iterator[None]:
    """Any failure to load as one sentence; diffusers raises many types for damaged files and missing networks."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if is_local:
            advice = (
                "check that it is a whole SDXL pipeline (a single file also needs the hub's configs: download them)"
            )
        else:
            advice = "check the id and the network, or give --base a downloaded folder"
        raise InputError(f"{base}: diffusers can't load it ({reason}); {advice}") from None


def _untrained(base: str, dtype: torch.dtype) -> Any:
    """A named base with seeded random weights."""
    from lorarar.miniature.networks import Sizes, build_tokenizer, new_pipeline

    tokenizer = build_tokenizer(_CAPTIONS)
    if base == MINIATURE:
        pipeline: Any = new_pipeline(Sizes(), tokenizer, UNTRAINED_SEED)
        for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet):
            network.to(dtype)
        return pipeline
    if base not in CONFIGS:
        raise InputError(f"--untrained is for the named bases {', '.join([MINIATURE, *CONFIGS])}, not for {base!r}")
    return _full_size(CONFIGS[base], tokenizer, dtype)


def _full_size(config: dict[str, Any], tokenizer: CLIPTokenizer, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        vae = AutoencoderKL(**_VAE)
        with _default_dtype(dtype):
            unet = UNet2DConditionModel.from_config(config)
            first, second = _text_encoders(tokenizer)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(vae, first, second, tokenizer, tokenizer, unet, scheduler, add_watermarker=False)


def _text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = [
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            intermediate_size=4 * sizes["hidden_size"],
            projection_dim=sizes["hidden_size"],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **sizes,
        )
        for sizes in _TEXT
    ]
    return CLIPTextModel(configs[0]), CLIPTextModelWithProjection(configs[1])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build networks in `dtype` at once: SDXL's UNet in fp32 alone is 10 GB."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
