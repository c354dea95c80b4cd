"""Where a base comes from: the miniature, a diffusers folder, a single file, a hub id, or seeded random weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lorarar.base.names import CONFIGS, MINIATURE, miniature_folder, unet_config
from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

UNTRAINED_SEED = 0
_SCALE = {False: 8, True: 4}
"""Image pixels a latent pixel: SDXL's and KOALA's, and the miniature's."""
NETWORKS = ("text_encoder", "text_encoder_2", "unet", "vae")
_PARTS = ("tokenizer", "tokenizer_2", *NETWORKS, "scheduler")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# An untrained base has no tokenizer file; a few captions are enough for one that cuts any prompt into known pieces.
_CAPTIONS = ("a photo of a dog", "a sks cat in watercolor painting style", "an oil painting of a house")

_VOCABULARY = 49408  # CLIP's, which is a twentieth of the second encoder

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


def open_pipeline(base: str, untrained: bool, dtype: torch.dtype, unet: bool = True) -> Any:
    """The base as a StableDiffusionXLPipeline, its VAE in fp32, the rest in `dtype`. InputError as load_components.

    Without `unet` its place is empty, for those who take it from `open_unet`.
    """
    if untrained:
        with quiet_toolchains():
            return _untrained(base, dtype, unet)
    path = _find(base)
    with _explained(base, _advice(path)), quiet_toolchains(), _silent_loaders():
        pipeline = _load(path, dtype, {} if unet else {"unet": None})
    parts = [part for part in _PARTS if unet or part != "unet"]
    if any(getattr(pipeline, part, None) is None for part in parts) or (unet and not _is_told_sizes(pipeline.unet)):
        raise InputError(f"{base}: not an SDXL pipeline, which has two text encoders and a UNet told the image's size")
    return pipeline


def open_unet(base: str, untrained: bool, dtype: torch.dtype | None = None) -> tuple[Any, int]:
    """The base's UNet alone, and how many image pixels a side one latent pixel is.

    In the dtype that its file has where none is given (fp32 when untrained). InputError as load_components.
    """
    if untrained:
        return _untrained_unet(base, dtype or torch.float32), _SCALE[base == MINIATURE]
    path = _find(base)
    with _explained(base, _advice(path)), quiet_toolchains(), _silent_loaders():
        from diffusers import AutoencoderKL, UNet2DConditionModel

        if path.is_file():
            unet = UNet2DConditionModel.from_single_file(str(path), torch_dtype=dtype or _stored_dtype(path))
            return unet, _SCALE[False]
        stored = next(iter(sorted((path / "unet").glob("*.safetensors"))), None)
        wanted = dtype or (torch.float32 if stored is None else _stored_dtype(stored))
        unet = UNet2DConditionModel.from_pretrained(
            str(path), subfolder="unet", torch_dtype=wanted, use_safetensors=True
        )
        vae = AutoencoderKL.load_config(str(path), subfolder="vae")
    if not _is_told_sizes(unet):
        raise InputError(f"{base}: its UNet is not told the image's size, as SDXL's is; give an SDXL-like pipeline")
    return unet, 2 ** (len(vae["block_out_channels"]) - 1)


def meta_parts(base: str) -> dict[str, Any]:
    """The base's networks by their pipeline names, on the meta device: shapes without weights. InputError as open_unet.

    Named bases have theirs here; a folder's or hub id's come from its configs. A single file has none to read.
    """
    if base in CONFIGS:
        from lorarar.base.fresh import build_tokenizer

        tokenizer = build_tokenizer(_CAPTIONS)
        with quiet_toolchains(), torch.device("meta"):
            return dict(zip(NETWORKS, _networks(CONFIGS[base], tokenizer, torch.float32), strict=True))
    path = _find(base)
    if path.is_file():
        raise InputError(f"{base}: a single file has no configs to plan by; give a diffusers folder or a named base")
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with _explained(base, _advice(path)), quiet_toolchains(), _silent_loaders(), torch.device("meta"):
        unet, vae = (
            kind.from_config(kind.load_config(str(path), subfolder=name))
            for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
        )
        encoders = [
            kind(CLIPTextConfig.from_pretrained(str(path), subfolder=name))
            for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
        ]
    return dict(zip(NETWORKS, (*encoders, unet, vae), strict=True))


def open_tiny_vae(source: str, scale: int, channels: int) -> Any:
    """A folder or hub id of diffusers' AutoencoderTiny, such as TAESDXL, in fp32.

    InputError when it is none, or isn't for latents of `channels` and `scale` pixels a side.
    """
    from diffusers import AutoencoderTiny

    path = Path(source)
    if not (path.is_dir() or _HUB_ID.fullmatch(source)):
        raise InputError(f"{source}: no such folder; give one of an AutoencoderTiny in diffusers format, or a hub id")
    with _explained(source, "give an AutoencoderTiny, such as TAESDXL"), quiet_toolchains(), _silent_loaders():
        config = AutoencoderTiny.load_config(source)
        if config.get("_class_name") != AutoencoderTiny.__name__:
            raise InputError(f"{source}: holds {config.get('_class_name')}, not an AutoencoderTiny such as TAESDXL")
        vae = AutoencoderTiny.from_pretrained(source, torch_dtype=torch.float32, use_safetensors=True).eval()
    have = 2 ** (len(vae.config.decoder_block_out_channels) - 1), vae.config.latent_channels
    if have != (scale, channels):
        raise InputError(
            f"{source}: decodes latents of {have[1]} channels to {have[0]} pixels each, the base's have {channels} "
            f"and {scale}; give one that was made for this base"
        )
    return vae


def image_side(unet: Any, scale: int, resolution: int | None) -> int:
    """The side of an image in pixels: the one given, or the UNet's own. InputError when the UNet can't halve it."""
    side = int(unet.config.sample_size) * scale if resolution is None else resolution
    step = scale * 2 ** (len(unet.config.block_out_channels) - 1)
    if side < step or side % step:
        raise InputError(f"a resolution of {side} doesn't fit this base; give a multiple of {step}")
    return side


def _stored_dtype(path: Path) -> torch.dtype:
    """The number format of a file's first tensor."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        found = file.get_slice(next(iter(file.keys()))).get_dtype()
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(found, torch.float32)


def _find(base: str) -> Path:
    """The folder or file of a base; a hub id as a path that doesn't exist."""
    if base in CONFIGS:
        raise InputError(
            f"the weights of {base} are not part of this toolkit; give --base a diffusers folder or a hub id, "
            "or --untrained for a dry run with random weights"
        )
    path = miniature_folder() if base == MINIATURE else Path(base)
    if not base or not (path.exists() or _HUB_ID.fullmatch(base)):
        valid = ", ".join([MINIATURE, *CONFIGS])
        raise InputError(
            f"unknown base {base!r}: no such folder or file; give {valid}, a diffusers folder, a .safetensors "
            "checkpoint or a hub id like owner/name"
        )
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise InputError(f"{path}: not a pipeline in diffusers format, it has no model_index.json; give its top folder")
    if path.is_file() and path.suffix != ".safetensors":
        raise InputError(f"{path}: a checkpoint in one file must be .safetensors; convert it first")
    return path


def _load(path: Path, dtype: torch.dtype, replaced: dict[str, None]) -> Any:
    """Load a folder, a single file or a hub id; only safetensors, since a stranger's pickle can run code."""
    from diffusers import StableDiffusionXLPipeline

    if path.is_file():
        pipeline = StableDiffusionXLPipeline.from_single_file(str(path), torch_dtype=dtype, **replaced)
        pipeline.vae.to(torch.float32)
        return pipeline
    dtypes = {"vae": torch.float32, "default": dtype}
    return StableDiffusionXLPipeline.from_pretrained(str(path), torch_dtype=dtypes, use_safetensors=True, **replaced)


def _is_told_sizes(unet: Any) -> bool:
    return unet.config.addition_embed_type == "text_time"


@contextmanager
def _silent_loaders() -> Iterator[None]:
    """Without the loaders' own progress bars, one for each part, and without errors logged that are raised as well."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = [item for item in (diffusers_logging, transformers_logging) if item.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
        for library in libraries:
            library.enable_progress_bar()


def _advice(path: Path) -> str:
    """What to do about a base that can't be loaded from `path`."""
    if path.is_dir():
        return "check that it is a whole SDXL pipeline, with its weights in .safetensors files"
    if path.is_file():
        return (
            "check that it is an SDXL checkpoint; diffusers also needs SDXL's configs and tokenizers from the hub, once"
        )
    return "check the id and the network, or give --base a downloaded folder"


@contextmanager
def _explained(base: str, advice: str) -> Iterator[None]:
    """Any failure to load as one sentence; diffusers raises many types for damaged files and missing networks."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{base}: diffusers can't load it ({reason}); {advice}") from None


def _untrained(base: str, dtype: torch.dtype, unet: bool) -> Any:
    """A named base with seeded random weights."""
    from lorarar.base.fresh import Sizes, build_tokenizer, new_pipeline

    tokenizer = build_tokenizer(_CAPTIONS)
    if base == MINIATURE:
        pipeline: Any = new_pipeline(Sizes(), tokenizer, UNTRAINED_SEED)
        for network in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.unet):
            network.to(dtype)
        return pipeline
    if base not in CONFIGS:
        raise InputError(f"--untrained is for the named bases {', '.join([MINIATURE, *CONFIGS])}, not for {base!r}")
    return _full_size(CONFIGS[base] if unet else None, tokenizer, dtype)


def _untrained_unet(base: str, dtype: torch.dtype) -> Any:
    """The UNet alone of a named base, with seeded random weights."""
    with quiet_toolchains():
        from diffusers import UNet2DConditionModel
    if base not in (MINIATURE, *CONFIGS):
        raise InputError(f"--untrained is for the named bases {', '.join([MINIATURE, *CONFIGS])}, not for {base!r}")
    with torch.random.fork_rng(devices=[]), _default_dtype(dtype):
        torch.manual_seed(UNTRAINED_SEED)
        return UNet2DConditionModel.from_config(unet_config(base))


def _full_size(config: dict[str, Any] | None, tokenizer: CLIPTokenizer, dtype: torch.dtype) -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    first, second, unet, vae = _networks(config, tokenizer, dtype)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    return StableDiffusionXLPipeline(vae, first, second, tokenizer, tokenizer, unet, scheduler, add_watermarker=False)


def _networks(config: dict[str, Any] | None, tokenizer: CLIPTokenizer, dtype: torch.dtype) -> tuple[Any, ...]:
    """SDXL's networks in the order of NETWORKS; without a config no UNet."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        vae = AutoencoderKL(**_VAE)
        with _default_dtype(dtype):
            unet = UNet2DConditionModel.from_config(config) if config else None
            first, second = _text_encoders(tokenizer)
    return first, second, unet, vae


def _text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = [
        CLIPTextConfig(
            vocab_size=_VOCABULARY,
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
