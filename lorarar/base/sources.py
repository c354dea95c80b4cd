"""Open a base: the miniature, a diffusers folder, a single file, a hub id, or a named base of random weights."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lorarar.base.names import CONFIGS, MINIATURE, miniature_folder
from lorarar.base.untrained import NETWORKS, SDXL_SCALE, meta_networks, untrained_pipeline, untrained_unet
from lorarar.errors import InputError, is_out_of_memory, said_by
from lorarar.settings import is_whole
from lorarar.toolchains import quiet_toolchains, without_progress_bars

_COMPONENTS = ("tokenizer", "tokenizer_2", *NETWORKS, "scheduler")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def open_pipeline(base: str, untrained: bool, dtype: torch.dtype, unet: bool = True) -> Any:
    """Open the base as a StableDiffusionXLPipeline, its VAE in fp32, the rest in `dtype`.

    Without `unet` its place is empty, for those who take it from `open_unet`. Raises InputError as `load_components`.
    """
    if untrained:
        with quiet_toolchains():
            return untrained_pipeline(base, dtype, unet)
    path = _find(base)
    replaced: dict[str, Any] = {"add_watermarker": False, **({} if unet else {"unet": None})}
    with _loading(base, _advice(path)):
        from diffusers import AutoencoderKL, StableDiffusionXLPipeline

        if path.is_file():
            # With the other networks it would be rounded to their type first.
            replaced["vae"] = AutoencoderKL.from_single_file(str(path), torch_dtype=torch.float32)
            pipeline = StableDiffusionXLPipeline.from_single_file(str(path), torch_dtype=dtype, **replaced)
        else:
            dtypes = {"vae": torch.float32, "default": dtype}
            # Only safetensors, since a stranger's pickle can run code.
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                str(path), torch_dtype=dtypes, use_safetensors=True, **replaced
            )
    require_parts(pipeline, base, without=() if unet else ("unet",))
    if unet:
        require_told_sizes(pipeline.unet, base)
    return pipeline


def require_parts(pipeline: Any, base: str, without: Collection[str] = ()) -> None:
    """Refuse a pipeline that lacks a part of SDXL's, such as the second text encoder, with InputError."""
    missing = [name for name in _COMPONENTS if name not in without and getattr(pipeline, name, None) is None]
    if missing:
        raise InputError(f"{base}: not an SDXL pipeline, it has no {', '.join(missing)}; give a whole one")


def require_told_sizes(unet: Any, base: str) -> None:
    """Refuse a UNet that is told something else than SDXL's, with InputError."""
    if getattr(unet.config, "addition_embed_type", None) != "text_time":
        raise InputError(f"{base}: its UNet is not told the image's size, as SDXL's is; give an SDXL-like pipeline")
    if getattr(unet.config, "time_cond_proj_dim", None) is not None:
        raise InputError(
            f"{base}: its UNet is told the guidance, as LCM's is, which nothing here tells it; give another"
        )


def open_unet(base: str, untrained: bool, dtype: torch.dtype | None = None) -> tuple[Any, int]:
    """Open the base's UNet alone; return it, and the side in image pixels of one latent pixel.

    Where no dtype is given it has that of its file (fp32 when untrained). Raises InputError as `load_components`.
    """
    if untrained:
        return untrained_unet(base, dtype or torch.float32)
    path = _find(base)
    with _loading(base, _advice(path)):
        from diffusers import AutoencoderKL, UNet2DConditionModel

        if path.is_file():
            unet = UNet2DConditionModel.from_single_file(str(path), torch_dtype=dtype or _stored_dtype(path))
            require_told_sizes(unet, base)
            return unet, SDXL_SCALE
        wanted = dtype or _stored_dtype(_weights_file(path / "unet"))
        unet = UNet2DConditionModel.from_pretrained(
            str(path), subfolder="unet", torch_dtype=wanted, use_safetensors=True
        )
        vae = AutoencoderKL.load_config(str(path), subfolder="vae")
    require_told_sizes(unet, base)
    return unet, 2 ** (len(vae["block_out_channels"]) - 1)


def meta_parts(base: str) -> dict[str, Any]:
    """Build the base's networks by their pipeline names, on the meta device: shapes without weights.

    Named bases have their configs here; a folder's or hub id's are read. A single file has none. Raises InputError as
    `open_unet`.
    """
    if base in CONFIGS:
        return meta_networks(base)
    path = _find(base)
    if path.is_file():
        raise InputError(f"{base}: a single file has no configs to plan by; give a diffusers folder or a named base")
    with quiet_toolchains():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with _loading(base, _advice(path)), torch.device("meta"):
        unet, vae = (
            kind.from_config(kind.load_config(str(path), subfolder=name))
            for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
        )
        encoders = [
            kind(CLIPTextConfig.from_pretrained(str(path), subfolder=name))
            for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
        ]
    return dict(zip(NETWORKS, (*encoders, unet, vae), strict=True))


def open_tiny_vae(source: str) -> Any:
    """Open a folder or hub id of diffusers' AutoencoderTiny, such as TAESDXL, in fp32. InputError when it is none."""
    from diffusers import AutoencoderTiny

    path = Path(source)
    if not (path.is_dir() or _HUB_ID.fullmatch(source)):
        raise InputError(f"{source}: no such folder; give one of an AutoencoderTiny in diffusers format, or a hub id")
    with _loading(source, "give an AutoencoderTiny, such as TAESDXL"):
        config = AutoencoderTiny.load_config(source)
        if config.get("_class_name") != AutoencoderTiny.__name__:
            raise InputError(f"{source}: holds {config.get('_class_name')}, not an AutoencoderTiny such as TAESDXL")
        return AutoencoderTiny.from_pretrained(source, torch_dtype=torch.float32, use_safetensors=True).eval()


def require_latents(vae: Any, scale: int, channels: int) -> None:
    """Refuse an AutoencoderTiny that isn't for latents of `channels` and `scale` pixels a side."""
    have = 2 ** (len(vae.config.decoder_block_out_channels) - 1), vae.config.latent_channels
    if have != (scale, channels):
        raise InputError(
            f"`tiny_vae` decodes latents of {have[1]} channels to {have[0]} pixels each, the base's have {channels} "
            f"and {scale}; give one that was made for this base"
        )


def require_channels(unet: Any, vae: Any) -> None:
    """Refuse a UNet that takes other latents than its VAE makes, such as one for inpainting."""
    takes, gives = unet.config.in_channels, vae.config.latent_channels
    if takes != gives:
        raise InputError(
            f"the UNet takes {takes} channels and the VAE has {gives}; give a `base` whose parts belong together (one "
            "for inpainting can't draw from text alone)"
        )


def latent_scale(vae: Any) -> int:
    """Return the side in image pixels of one latent pixel of an AutoencoderKL."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


MOST_SIDE = 16384
"""Of an image, in pixels: sixteen times SDXL's own; one of that size takes 3 GB."""


def image_side(unet: Any, scale: int, resolution: int | None) -> int:
    """Return an image's side in pixels: the one given, or the UNet's own. InputError when the UNet can't halve it."""
    if resolution is None and not isinstance(unet.config.sample_size, int):
        raise InputError(f"the UNet's own size is {unet.config.sample_size}; give `resolution`, in pixels")
    side = int(unet.config.sample_size) * scale if resolution is None else resolution
    step = scale * 2 ** (len(unet.config.block_out_channels) - 1)
    if not is_whole(side, step, MOST_SIDE) or side % step:
        valid = f"a multiple of {step}, up to {MOST_SIDE}"
        raise InputError(f"a `resolution` of {side!r} doesn't fit this base; give {valid}")
    return side


def _weights_file(folder: Path) -> Path:
    """Return the file that diffusers loads a network from, or the first of its shards; variants lie beside it."""
    name = "diffusion_pytorch_model.safetensors"
    index = folder / f"{name}.index.json"
    if not index.is_file():
        return folder / name
    return folder / min(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())


def _stored_dtype(path: Path) -> torch.dtype:
    """Return the dtype of a file's first tensor; fp32 for any but fp16 and bf16, and for a file that is not here."""
    from safetensors import safe_open

    if not path.is_file():
        return torch.float32
    with safe_open(str(path), framework="pt") as file:
        found = file.get_slice(next(iter(file.keys()))).get_dtype()
    return {"F16": torch.float16, "BF16": torch.bfloat16}.get(found, torch.float32)


def _find(base: str) -> Path:
    """Return the folder or file of a base; a hub id as a path that doesn't exist."""
    if base in CONFIGS:
        raise InputError(
            f"the weights of {base} are not part of this toolkit; give as `base` a diffusers folder or a hub id, "
            "or `untrained` for a dry run with random weights"
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


def _advice(path: Path) -> str:
    """Say what to do about a base that can't be loaded from `path`."""
    if path.is_dir():
        return "check that it is a whole SDXL pipeline, with its weights in .safetensors files"
    if path.is_file():
        return (
            "check that it is an SDXL checkpoint; diffusers also needs SDXL's configs and tokenizers from the hub, once"
        )
    return "check the id and the network, or give a downloaded folder as `base`"


@contextmanager
def _loading(base: str, advice: str) -> Iterator[None]:
    """Load in the block without logged copies of errors, and tell any failure in one sentence.

    diffusers and transformers raise errors of many types for damaged files and missing networks.
    """
    try:
        with quiet_toolchains(logging.ERROR), without_progress_bars():
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from None
        raise InputError(f"{base}: diffusers can't load it ({said_by(error)}); {advice}") from None
