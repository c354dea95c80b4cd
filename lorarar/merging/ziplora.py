"""ZipLoRA (arXiv 2311.13600), the paper's main rival: coefficients optimised for one pair, with the loss of Eq. 3.

One m_c and m_s for every input column of every attention linear, from 1, by 100 steps of AdamW (appendix A1.3). The
result is an ordinary LoRA of rank r_c + r_s, exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lorarar.base.components import Components, Denoiser
from lorarar.base.names import unet_layout
from lorarar.errors import check_loss
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA
from lorarar.merging import Merged, MergeOptions, merge_loras
from lorarar.training.bank import Coefficients
from lorarar.training.examples import Reference
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.launch import new_accelerator
from lorarar.training.loss import merging_loss
from lorarar.training.pair_data import PairData, single_pair

OnStep = Callable[[int, float], None]
"""Called after each step with the number of steps done and the loss at the step's start."""


def ziplora(
    components: Components,
    content_lora: LoRA,
    style_lora: LoRA,
    content: Reference,
    style: Reference,
    settings: ZipSettings | None = None,
    *,
    options: MergeOptions | None = None,
    on_step: OnStep | None = None,
) -> Merged:
    """Optimise a pair's coefficients and merge with them; `components` are as before when it returns.

    `options` holds the merge's scales and rank. The merged LoRA's metadata says how it was optimised. Raises InputError
    for LoRAs that are not of the base's attention linears alone, images that can't be read, and a loss that is not
    finite.
    """
    settings = settings or ZipSettings()
    layout = unet_layout(components.unet, components.name)
    data = single_pair(components, layout, (content_lora, style_lora), (content, style))
    coefficients = optimise_pair(components, layout, data, settings, on_step)
    by_layer = {
        UNET + module: coefficients[group.name][0, row].cpu().numpy()
        for group in layout.groups
        for row, module in enumerate(group.modules)
    }
    options = replace(options or MergeOptions(), coefficients=by_layer, seed=settings.seed)
    return merge_loras(content_lora, style_lora, layout, "ziplora", options).with_facts(_facts(settings))


def optimise_pair(
    components: Denoiser, layout: Layout, data: PairData, settings: ZipSettings, on_step: OnStep | None = None
) -> dict[str, Tensor]:
    """Return the optimised coefficients (1, n, 2, in) of the only pair in `data`, by group name."""
    accelerator = new_accelerator(components.device, settings.mixed_precision)
    pairs = {
        group.name: nn.Parameter(
            torch.full((1, len(group.modules), 2, group.in_features), settings.initial, device=components.device)
        )
        for group in layout.groups
    }
    optimizer = accelerator.prepare(torch.optim.AdamW(pairs.values(), settings.learning_rate))
    if settings.gradient_checkpointing:
        components.unet.enable_gradient_checkpointing()
    try:
        for step in range(settings.steps):
            loss = _step(components, layout, data, settings, step, pairs, accelerator)
            check_loss(loss, f"step {step + 1}")
            optimizer.step()
            optimizer.zero_grad()
            if on_step is not None:
                on_step(step + 1, loss)
    finally:
        accelerator.free_memory()
        if settings.gradient_checkpointing:
            components.unet.disable_gradient_checkpointing()
    return {name: pair.detach() for name, pair in pairs.items()}


def _step(
    components: Denoiser,
    layout: Layout,
    data: PairData,
    settings: ZipSettings,
    step: int,
    pairs: dict[str, nn.Parameter],
    accelerator: Any,
) -> float:
    """Make a step's gradients and return its loss."""
    timesteps = components.noise.config.num_train_timesteps
    batch, loras = data.batch(components, data.draw(step, settings.batch_pairs, settings.seed, timesteps))
    applied = {name: pair.expand(settings.batch_pairs, -1, -1, -1) for name, pair in pairs.items()}
    coefficients = Coefficients(applied, tuple(applied.values()))
    args = (components.unet, batch, layout, loras, coefficients, settings.loss)
    with merging_loss(*args, autocast=accelerator.autocast) as loss:
        accelerator.backward(loss.total)
    return float(loss.total.detach())


def _facts(settings: ZipSettings) -> dict[str, Any]:
    """Return what the merged file tells of the optimisation."""
    loss = settings.loss
    facts = {name: getattr(settings, name) for name in ("steps", "learning_rate", "initial", "batch_pairs")}
    facts |= {"lambda": loss.weight, "regulariser": loss.regulariser, "distance": loss.distance}
    return {f"ziplora_{name}": value for name, value in facts.items()}
