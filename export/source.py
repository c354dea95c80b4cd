"""Open what is to be exported: a base by its name, its folder or as an object, its hypernetwork, its LoRAs to fuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from export.graph import ImageSize
from export.options import LORAS, require_batch, require_stack
from lorarar.base.names import CONFIGS, MINIATURE, MINIATURE_FOLDER, load_layout, name_of, unet_layout
from lorarar.base.sources import (
    image_side,
    latent_scale,
    open_pipeline,
    open_unet,
    require_latents,
    require_parts,
    require_told_sizes,
)
from lorarar.base.untrained import SDXL_SCALE
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import LoadedPredictor, find_predictor, fit_predictor
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import Layout
from lorarar.lora import LoRA, LoraSource, as_lora
from lorarar.lora.types import check_made
from lorarar.merging import learned_options, merge_loras
from lorarar.training.settings import default_settings

Base = str | Path | Any
"""A base's name, folder, single file or hub id; or a loaded diffusers pipeline or UNet."""
Hypernet = str | Path | Hypernetwork | None
"""The file of a trained hypernetwork, or a loaded one; None for the one that is shipped."""
Fused = LoraSource | Sequence[LoraSource] | None
"""A LoRA, or a content and a style LoRA to merge."""


def is_loaded(base: Base) -> bool:
    """Tell whether a base is an object of diffusers, not a name."""
    return not isinstance(base, str | Path)


def base_name(base: Base) -> str:
    """Return a base's name as the user gave it; of an object, that of the folder or id that it was loaded from."""
    if not is_loaded(base):
        return str(base)
    return _loaded_from(base).name or type(base).__name__


def _loaded_from(base: Any) -> Path:
    """Return the folder or id that an object of diffusers was loaded from; an empty path where it does not say."""
    config = getattr(base, "config", None)
    return Path(str(config.get("_name_or_path", "") if isinstance(config, Mapping) else ""))


def _is_shipped(base: Any) -> bool:
    """Tell whether an object of diffusers was loaded from the shipped miniature, or from its `unet` folder."""
    source = _loaded_from(base).resolve()
    return MINIATURE_FOLDER in (source, source.parent)


def base_layout(base: Base, adapt: str = "attention") -> Layout:
    """Return the layout of a base; `adapt` is a key of lorarar.layout.ADAPT. Raises InputError for an unknown one.

    Of a single file or a hub id the UNet is opened.
    """
    if is_loaded(base):
        return unet_layout(_unet_of(base), base_name(base), adapt)
    name = str(base)
    if name in (MINIATURE, *CONFIGS) or Path(name).is_dir():
        return load_layout(name, adapt)
    return unet_layout(open_unet(name, untrained=False)[0], name_of(name), adapt)


def chosen_rank(base: Base, given: int | None, loras: int = LORAS) -> int:
    """Return the rank given, or that of the LoRAs that are trained for the base by default. InputError if too large."""
    rank = default_settings(base_name(base)).rank if given is None else given
    require_stack(rank, loras)
    return rank


def chosen_hypernet(base: Base, given: Hypernet, untrained: bool, alone: bool = True) -> LoadedPredictor | None:
    """Return the hypernetwork given or the one that is shipped, None for `untrained`; InputError as `find_predictor`.

    `alone` tells that `untrained` is of the hypernetwork alone; else it is of the base too, which must be a named one.
    """
    if is_loaded(base):
        _unet_of(base)
    if isinstance(given, Hypernetwork):
        _require_cpu(given, name="hypernet")
        if next(given.parameters()).dtype != torch.float32:
            raise InputError("`hypernet` has weights of half precision; give hypernet.float()")
    trial = alone or (not is_loaded(base) and base in (MINIATURE, *CONFIGS))
    name = base_name(base)
    if is_loaded(base) and name == MINIATURE and not _is_shipped(base):
        name = f"another base in a folder named {name}"
    return find_predictor(name, given, untrained, trial)


def chosen_unet(
    base: Base, precision: str, untrained: bool, resolution: int | None, batch: int
) -> tuple[Any, ImageSize]:
    """Open a base's UNet for images of `resolution` pixels a side (default: the UNet's own)."""
    require_batch(batch)
    if is_loaded(base):
        unet, vae = _unet_of(base), getattr(base, "vae", None)
        require_told_sizes(unet, base_name(base))
        _require_cpu(unet)
        scale = SDXL_SCALE if vae is None else latent_scale(vae)
    else:
        # Random weights are as good in half precision, which is half of the memory.
        half = torch.float16 if untrained and precision != "fp32" else None
        unet, scale = open_unet(str(base), untrained, half)
    pixels = image_side(unet, scale, resolution)
    return unet, ImageSize(pixels, pixels // scale, batch)


def chosen_pipeline(base: Base, unet: Any, size: ImageSize, untrained: bool, tiny_vae: Any) -> Any:
    """Open the rest of a base's pipeline around a UNet, with an AutoencoderTiny in place of its VAE if one is given."""
    if is_loaded(base):
        from diffusers import StableDiffusionXLPipeline  # takes seconds, and a base by its name needs it later alone

        if not hasattr(base, "unet"):
            raise InputError("`base` is a UNet alone; give a whole pipeline, such as a StableDiffusionXLPipeline")
        if not isinstance(base, StableDiffusionXLPipeline):
            kind = type(base).__name__
            raise InputError(f"`base` is a {kind}; give a StableDiffusionXLPipeline, which draws from text alone")
        require_parts(base, base_name(base))
        pipeline: Any = base
        _require_plain(pipeline.text_encoder, pipeline.text_encoder_2)
        _require_cpu(pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae)
    else:
        pipeline = open_pipeline(str(base), untrained, torch.float32, unet=False)
        pipeline.register_modules(unet=unet)
    if tiny_vae is not None:
        require_latents(tiny_vae, size.pixels // size.latent, unet.config.in_channels)
        pipeline.register_modules(vae=tiny_vae)
    return pipeline


def chosen_lora(base: Base, layout: Layout, fused: Fused, hypernet: Hypernet, untrained: bool) -> LoRA | None:
    """Return the LoRA to add into the weights: the one given, or the merge of a content and a style LoRA."""
    if fused is not None and not isinstance(fused, LoRA | Iterable | PathLike):
        raise InputError(f"`fused` is {fused!r}; give a LoRA, or a content and a style LoRA")
    given = [] if fused is None else [fused] if isinstance(fused, LoRA | str | PathLike | Mapping) else list(fused)
    if fused is not None and not given:
        raise InputError("`fused` names no LoRA; give one, or a content and a style LoRA, or leave it out")
    if len(given) > 2:
        raise InputError(f"`fused` has {len(given)} LoRAs; give one, or a content and a style LoRA")
    if hypernet is not None and len(given) != 2:
        raise InputError("`hypernet` merges a content and a style LoRA; give both to `fused`, or leave it out")
    loras = [as_lora(lora) for lora in given]
    if not loras:
        return None
    if len(loras) == 1:
        check_made(loras[0])  # of two, their merge looks at it
        return loras[0]
    loaded = fit_predictor(chosen_hypernet(base, hypernet, untrained and hypernet is None, alone=False), layout)
    return merge_loras(loras[0], loras[1], layout, "learned", learned_options(loaded.predictor)).lora


def _require_cpu(*networks: nn.Module, name: str = "base") -> None:
    for network in networks:
        device = next(network.parameters()).device
        if device.type != "cpu":
            raise InputError(f"`{name}` is on {device}; an export computes on the CPU: give {name}.to('cpu')")


def _require_plain(*networks: nn.Module) -> None:
    if any(getattr(network, "peft_config", None) for network in networks):
        raise InputError("`base` has LoRAs on; take them off (unload_lora_weights), after fuse_lora() to keep them")


def _unet_of(base: Any) -> nn.Module:
    unet = getattr(base, "unet", base)
    if not isinstance(unet, nn.Module) or not hasattr(unet, "config"):
        raise InputError(
            f"`base` is of the type {type(base).__name__}; give a name, a folder, or a diffusers pipeline or UNet"
        )
    if unet in _USED_UP:
        raise InputError("`base` was used up by an export, which changes and frees its weights; load it again")
    _require_plain(unet)
    return unet


_USED_UP: WeakSet[nn.Module] = WeakSet()


def use_up(unet: nn.Module) -> None:
    """Note that an export changes a UNet from here on, or the rest of its pipeline; as a loaded base it is refused."""
    _USED_UP.add(unet)
