"""SDXL's UNet with adapter inputs: a stack of LoRAs and coefficients come in beside the latents, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.components.adapted import Adapters
from export.graph import Graph, ImageSize, golden_roles
from lorarar.layout import ROLES, Layout, Shape, StackSize, adapter_inputs

CONDITIONS = ("encoder_hidden_states", "text_embeds", "time_ids")
"""The inputs that tell the UNet what to draw, beside the latents and the timestep."""


class AdaptedUNet(nn.Module):
    """A diffusers UNet whose inputs and output have names, and whose linears of a layout take a stack of LoRAs.

    The UNet is taken over: these linears are replaced in place. With `layout` None it stays as it is and has no adapter
    inputs, as the base model, or one with a LoRA fused in. `form` is a key of `export.components.adapted.FORMS`.
    """

    def __init__(self, unet: Any, layout: Layout | None, form: str = "matmul") -> None:
        super().__init__()
        self._adapters = Adapters(unet, layout.of("unet") if layout else (), form)
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Run one step and return `noise_pred` (B, 4, h, w).

        Inputs: sample (B, 4, h, w), timestep (B), encoder_hidden_states (B, 77, d), text_embeds (B, p), time_ids (B,
        6), roles (R, K), and for every group adapter_{group}_down (N, R, in), adapter_{group}_up (N, out, R) and
        coefficients_{group} (B, N, K, in).
        """
        states, pooled, sizes = (tensors[name] for name in CONDITIONS)
        self._adapters.put(tensors)
        noise = self.unet(
            sample,
            timestep,
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        self._adapters.clear()
        return {"noise_pred": noise}


def unet_graph(
    unet: Any,
    layout: Layout | None,
    stack: StackSize,
    size: ImageSize,
    form: str = "matmul",
    module: nn.Module | None = None,
) -> Graph:
    """Make the graph of a diffusers UNet for images of one size, and take the UNet over.

    Without a layout there are no adapter inputs. `form` is a key of `export.components.adapted.FORMS`. With a `module`
    of the caller's the UNet is left alone, and only its sizes are read. What the time embedding is made of stays in
    fp32: in half precision t·frequency loses what tells steps apart.
    """
    config, batch, latent = unet.config, size.batch, size.latent
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    widths = dict(zip(CONDITIONS, ((batch, 77, config.cross_attention_dim), (batch, pooled), (batch, 6)), strict=True))
    inputs: dict[str, Shape] = {"sample": (batch, config.in_channels, latent, latent), "timestep": (batch,), **widths}
    # text_embeds too, since it is joined with what becomes of time_ids.
    dtypes = dict.fromkeys(("timestep", "text_embeds", "time_ids"), torch.float32)
    inputs |= adapter_inputs(layout.of("unet") if layout else (), stack.loras, batch)
    outputs: dict[str, Shape] = {"noise_pred": (batch, config.out_channels, latent, latent)}
    side = float(size.pixels)
    golden = {"time_ids": {"values": [side, side, 0.0, 0.0, side, side] * batch}, ROLES: golden_roles(stack)}
    module = AdaptedUNet(unet, layout, form) if module is None else module
    return Graph("unet", module, inputs, outputs, stack.named, dtypes, golden, owned=True)
