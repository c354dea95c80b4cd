"""The UNets of Apple's Stable Diffusion, from a checkout of github.com/apple/ml-stable-diffusion; sizes cut down."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from coreml_suite.special import Job, Picked
from torch import Tensor

PACKAGE = "python_coreml_stable_diffusion"
FORMS = ("ORIGINAL", "SPLIT_EINSUM", "SPLIT_EINSUM_V2")  # Apple's ways to compute attention
SIDE, TOKENS = 16, 77  # of the latents; of the text


def apple_networks(checkout: Path) -> dict[str, Callable[[], Job]]:
    """Return what makes each network; the checkout's code is imported when it is called."""
    made = {f"Apple's UNet, {form}": lambda form=form: stable_diffusion(checkout, form) for form in FORMS}
    return {**made, "Apple's UNet of SDXL": lambda: sdxl(checkout)}


def stable_diffusion(checkout: Path, form: str, widths: tuple[int, int] = (64, 128), side: int = SIDE) -> Job:
    module = _imported(checkout, form)
    blocks = {"block_out_channels": widths, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 96}
    made = module.UNet2DConditionModel(sample_size=side, attention_head_dim=4, **blocks)
    return Picked(made, 0), _inputs(96, side)


def sdxl(checkout: Path) -> Job:
    module = _imported(checkout, "SPLIT_EINSUM")
    blocks = {"block_out_channels": (64, 128), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    blocks |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 96}
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 32}
    told |= {"projection_class_embeddings_input_dim": 6 * 32 + 80}
    layers = {"attention_head_dim": (2, 4), "transformer_layers_per_block": (1, 2)}
    made = module.UNet2DConditionModelXL(sample_size=SIDE, **blocks, **told, **layers)
    more = {"time_ids": torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]]), "text_embeds": torch.randn(1, 80)}
    return Picked(made, 0), _inputs(96, SIDE) | more


def _imported(checkout: Path, form: str):  # noqa: ANN202 - a module that is not here
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    module = import_module(f"{PACKAGE}.unet")
    module.ATTENTION_IMPLEMENTATION_IN_EFFECT = module.AttentionImplementations[form]
    return module


def _inputs(width: int, side: int) -> dict[str, Tensor]:
    """Return inputs as Apple's pipeline gives them: text with its channels first."""
    return {
        "sample": torch.randn(1, 4, side, side),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, width, 1, TOKENS),
    }
