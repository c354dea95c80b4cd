"""Adapters of random numbers as PEFT saves them, under names of SDXL, and what PEFT's own merge makes of the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import nn

LINEAR = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV, POINTWISE = "down_blocks.1.resnets.0.conv1", "down_blocks.1.resnets.0.conv_shortcut"


@dataclass(frozen=True)
class Adapter:
    """A saved adapter, its base's weights and PEFT's ΔW, by full module name."""

    folder: Path
    state: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    weights: Mapping[str, np.ndarray]
    deltas: Mapping[str, np.ndarray]


def saved(folder: Path, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Save an adapter to modules of these shapes: (out, in), or (out, in, k, k) of a convolution."""
    torch.manual_seed(0)
    base = nested({name: layer(shape) for name, shape in shapes.items()})
    weights = {f"unet.{name}": weight(base, name) for name in shapes}
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "hada_", "lokr_")):
            parameter.data = torch.randn(parameter.shape)
    model.save_pretrained(str(folder))
    state = {name: value.numpy() for name, value in peft.get_peft_model_state_dict(model).items()}
    merged = model.merge_and_unload()
    deltas = {full: weight(merged, full.removeprefix("unet.")) - before for full, before in weights.items()}
    return Adapter(folder, state, config.to_dict(), weights, deltas)


def layer(shape: tuple[int, ...]) -> nn.Module:
    """A linear, or a convolution, without a bias."""
    out, inp, *kernel = shape
    return nn.Conv2d(inp, out, kernel[0], bias=False) if kernel else nn.Linear(inp, out, bias=False)


def nested(leaves: Mapping[str, nn.Module]) -> nn.Module:
    """A model whose modules have these dotted names."""
    root = nn.Module()
    for name, leaf in leaves.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.add_module(last, leaf)
    return root


def weight(model: nn.Module, name: str) -> np.ndarray:
    """A copy of a module's weight."""
    found = model.get_submodule(name).weight
    assert isinstance(found, torch.Tensor)
    return found.detach().numpy().copy()
