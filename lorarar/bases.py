"""The bases: UNet configs of SDXL and KOALA, and the layout of these or of any diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.cli import InputError, missing_toolchain, quiet_toolchains
from lorarar.layout import Layout, part_of

if TYPE_CHECKING:
    from torch import nn

DEFAULT_BASE = "koala-700m"

_SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

# KOALA (arXiv 2312.04005) is SDXL with fewer layers. Its configs are rebuilt from the published sizes: 0.78B, 1.16B.
CONFIGS: dict[str, dict[str, Any]] = {
    "sdxl": _SDXL,
    "koala-1b": _SDXL | {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 6]},
    "koala-700m": _SDXL | {"layers_per_block": 1, "transformer_layers_per_block": [0, 2, 5], "mid_block_type": None},
}


def unet_config(base: str) -> dict[str, Any]:
    """The UNet config of a named base or of a diffusers folder (or of its `unet` folder)."""
    if base in CONFIGS:
        return CONFIGS[base]
    folder = Path(base)
    for path in (folder / "unet" / "config.json", folder / "config.json"):
        if path.is_file():
            return _read_config(path)
    raise InputError(
        f"unknown base {base!r}; valid are {', '.join(CONFIGS)} or a folder in diffusers format with unet/config.json"
    )


def meta_unet(base: str) -> nn.Module:
    """The base's UNet on the meta device: names and shapes without weights."""
    config = unet_config(base)
    try:
        with quiet_toolchains():
            import torch
            from diffusers import UNet2DConditionModel
    except ModuleNotFoundError:
        raise missing_toolchain("diffusers", "train") from None
    try:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)
    except (ValueError, TypeError, NotImplementedError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{base}: its UNet config can't be built by diffusers ({error})") from None


def load_layout(base: str) -> Layout:
    """The layout of a base: its attention linears in `named_modules()` order, grouped by part and shape."""
    from torch import nn

    linears = [
        (name, module.in_features, module.out_features)
        for name, module in meta_unet(base).named_modules()
        if isinstance(module, nn.Linear) and part_of(name)
    ]
    return Layout.from_linears(base if base in CONFIGS else Path(base).name, linears)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not a JSON config; download the folder again") from None
    if not isinstance(config, dict) or config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        raise InputError(f"{path}: not the config of a UNet2DConditionModel; give an SDXL-like pipeline's folder")
    return config
