"""Time steps of ZipLoRA's optimisation of one pair, beside which the paper's Table 2 puts the merge. Needs torch.

Weights, latents and prompts are random numbers: a step takes as long with any others. Encoding the pair's images and
prompts is not part of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from benchmarks.processes import peak_bytes
from lorarar.base.components import Condition
from lorarar.base.names import meta_unet, unet_config, unet_layout
from lorarar.layout import Layout
from lorarar.merging.ziplora import optimise_pair
from lorarar.synthetic import synthetic_lora
from lorarar.toolchains import quiet_toolchains
from lorarar.training.bank import LoraBank
from lorarar.training.examples import Examples
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.pair_data import PairData, RoleData

STRENGTH = 1e-3  # of the LoRAs: about a tenth of a weight, as after some training; strong ones end in NaN
LATENT_SIDE = 64  # at most: 512×512 pixels on SDXL, where the paper has 1024×1024
# Above it, activations of two rows don't fit beside the weights in 24 GB, and are computed a second time instead.
CHECKPOINTED_PARAMETERS = 1.5e9
TOKENS, TIME_IDS = 77, 6  # of SDXL's condition


@dataclass
class RandomBase:
    """A base's UNet with random weights and a noise schedule: an optimisation runs nothing else of a base."""

    unet: Any
    noise: Any  # a diffusers DDPMScheduler
    latent_side: int

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device


def measure_steps(base: str, rank: int, steps: int, threads: int) -> dict[str, Any]:
    """Return the seconds of each of `steps` steps in fp32 after a first one, and what the whole optimisation is."""
    torch.set_num_threads(threads)
    made = random_base(base)
    layout: Layout = unet_layout(made.unet, base)
    many = sum(parameter.numel() for parameter in made.unet.parameters()) > CHECKPOINTED_PARAMETERS
    settings = ZipSettings(steps=steps + 1, gradient_checkpointing=many)
    ends: list[float] = []
    pair = random_pair(made, layout, rank)
    optimise_pair(made, layout, pair, settings, lambda step, loss: ends.append(time.perf_counter()))
    return {
        "step_seconds": [end - start for start, end in pairwise(ends)],
        "steps": ZipSettings().steps,  # of a whole optimisation
        "parameters": sum(2 * len(group.modules) * group.in_features for group in layout.groups),
        "latent_side": made.latent_side,
        "gradient_checkpointing": many,
        "peak_bytes": peak_bytes(),
    }


def random_base(base: str) -> RandomBase:
    """Make a base's UNet with random weights. Raises InputError for a base that has no such UNet."""
    with quiet_toolchains():
        from diffusers import DDPMScheduler, UNet2DConditionModel
    meta_unet(base)  # says what a config is missing
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(unet_config(base)).requires_grad_(False).eval()
    return RandomBase(unet, DDPMScheduler(), min(LATENT_SIDE, unet.config.sample_size or LATENT_SIDE))


def random_pair(base: RandomBase, layout: Layout, rank: int) -> PairData:
    """Make two LoRAs of that rank, with an image and a prompt of each."""
    config, side = base.unet.config, base.latent_side
    pooled = 0
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim

    def role(seed: int) -> RoleData:
        numbers = torch.Generator().manual_seed(seed)
        latents = torch.randn((1, config.in_channels, side, side), generator=numbers)
        embeds = torch.randn((1, TOKENS, config.cross_attention_dim), generator=numbers)
        pooled_embeds = torch.randn((1, pooled), generator=numbers)
        condition = Condition(embeds, pooled_embeds, torch.zeros(1, TIME_IDS))
        bank = LoraBank.of([synthetic_lora(layout, rank, seed, STRENGTH)], layout, rank)
        return RoleData(bank, Examples((latents,), condition, stream=seed))

    return PairData(role(0), role(1), ((0, 0),))
