"""Count the memory that a training of the hypernetwork takes on its device, before any weight is there.

The step runs on fake tensors, which have a shape, a type and no numbers: the same code, in seconds, at any size. What
is counted are the tensors that live at once. An allocator's gaps, a GPU's own context and the kernels' scratch memory
come on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode  # torch 2.13 has no public name for it

from lorarar.base.components import Condition
from lorarar.base.names import DTYPES, TIME_IDS, pooled_width, unet_layout
from lorarar.base.sources import image_side, latent_scale, meta_parts
from lorarar.base.untrained import MAX_TOKENS
from lorarar.layout import Layout
from lorarar.live_bytes import LiveBytes
from lorarar.settings import check_at_least
from lorarar.training.bank import GroupFactors, Pack, predict_coefficients
from lorarar.training.examples import encoded_at_once
from lorarar.training.hyper_settings import HyperSettings
from lorarar.training.joint import JointBatch
from lorarar.training.loss import PairBatch, merging_loss
from lorarar.training.trainer import new_predictor


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on the device of one process: what stays there, and what a moment takes at most beside it."""

    networks: Mapping[str, int]
    step: int  # one pass: the pairs' LoRAs, activations, gradients
    encoding: int  # the references' images, a few at once, before the first step
    pairs: int  # of one pass
    pixels: int

    @property
    def most(self) -> int:
        """The most that is there at once."""
        return sum(self.networks.values()) + max(self.step, self.encoding)


def plan_training(base: str, settings: HyperSettings, rank: int, resolution: int | None = None) -> TrainingMemory:
    """Count the memory of a training on LoRAs of that rank; `resolution` is the images' side, None the base's own.

    Only shapes are needed: a named base has no weights here, of a folder or hub id the configs are read. Raises
    InputError for a base without them, and for a resolution that doesn't fit it.
    """
    check_at_least(1, rank=rank)
    parts = meta_parts(base)
    unet, vae = parts["unet"], parts["vae"]
    scale, layout = latent_scale(vae), unet_layout(unet, base)
    pixels = image_side(unet, scale, resolution)
    predictor = new_predictor(layout, settings).train()
    pairs = max(1, settings.batch_pairs // settings.accumulation)
    counted, networks = LiveBytes(), dict[str, int]()
    with FakeTensorMode(allow_non_fake_inputs=True), counted:
        for name, network in parts.items():
            before = counted.live
            _materialise(network.eval(), torch.float32 if name == "vae" else _dtype(settings))
            networks[name] = counted.live - before
        counted.begin()
        with torch.no_grad():
            vae.encode(torch.empty(encoded_at_once(pixels), 3, pixels, pixels)).latent_dist.mode()
        encoding = counted.most()
        counted.begin()
        _step(unet, layout, predictor, settings, _batch(unet, settings, pairs, pixels // scale), rank)
        step = counted.most()
    return TrainingMemory(networks, step, encoding, pairs, pixels)


def _dtype(settings: HyperSettings) -> torch.dtype:
    """Return the dtype in which the base is frozen."""
    found: torch.dtype = getattr(torch, DTYPES[settings.mixed_precision])
    return found


def _materialise(network: nn.Module, dtype: torch.dtype) -> None:
    """Give a network of the meta device tensors that are counted, frozen as a base's are."""
    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(value.shape, dtype=dtype), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _step(unet: Any, layout: Layout, predictor: Any, settings: HyperSettings, batch: PairBatch, rank: int) -> None:
    """Run one pass forwards and backwards, as the trainer does."""
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    # Autocast's rules are the CPU's, where the fake tensors are.
    autocast = nullcontext if settings.mixed_precision == "no" else partial(torch.autocast, "cpu", _dtype(settings))
    count = len(batch.latents) // 2
    loras = _pack(layout, count, rank), _pack(layout, count, rank)
    coefficients = predict_coefficients(predictor, layout, *loras)
    with merging_loss(unet, batch, layout, loras, coefficients, settings.loss, autocast) as loss:
        loss.total.backward()


def _pack(layout: Layout, count: int, rank: int) -> Pack:
    def empty(*shape: int) -> Tensor:
        return torch.empty(count, *shape)

    return {
        group.name: GroupFactors(
            empty(len(group.modules), rank, group.in_features), empty(len(group.modules), group.out_features, rank)
        )
        for group in layout.groups
    }


def _batch(unet: Any, settings: HyperSettings, pairs: int, side: int) -> PairBatch:
    """Return the rows of so many pairs, for latents of that side."""
    config, dtype = unet.config, _dtype(settings)

    def condition(rows: int) -> Condition:
        shapes = (MAX_TOKENS, config.cross_attention_dim), (pooled_width(config),), (TIME_IDS,)
        return Condition(*(torch.empty(rows, *shape, dtype=dtype) for shape in shapes))

    def latents(rows: int) -> Tensor:
        return torch.empty(rows, config.in_channels, side, side)

    def times(rows: int) -> Tensor:
        return torch.zeros(rows, dtype=torch.long)

    joint = None
    if settings.loss.joint == "composed":
        joint = JointBatch(
            latents(pairs), times(pairs), condition(pairs), apart=condition(2 * pairs), plain=condition(pairs)
        )
    elif settings.loss.joint == "images":
        joint = JointBatch(latents(pairs), times(pairs), condition(pairs), latents(pairs), torch.ones(pairs))
    return PairBatch(latents(2 * pairs), times(2 * pairs), condition(2 * pairs), joint)
