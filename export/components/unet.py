"""SDXL's UNet with adapter inputs: the tensors of a merged LoRA come in beside the latents, by name.

An attention linear gives W x + b + up(down x). No ΔW is formed and no weight changes, so that a runtime takes another
LoRA by being handed other tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph import Graph, ImageSize
from lorarar.layout import Layout, Shape, adapter_shapes

CONDITIONS = ("encoder_hidden_states", "text_embeds", "time_ids")
"""The inputs that tell the UNet what to draw, beside the latents and the timestep."""


class _Live:
    """The LoRA factors of the pass that is running, by module name.

    A plain object, since a module that kept tensors in a dict of its own would go on using those it was traced with.
    """

    def __init__(self) -> None:
        self.factors: Mapping[str, tuple[Tensor, Tensor]] = {}


class AdaptedLinear(nn.Module):
    """A linear to whose output the LoRA of the running pass is added."""

    def __init__(self, linear: nn.Linear, live: _Live, name: str) -> None:
        super().__init__()
        self.linear, self._live, self._name = linear, live, name

    def forward(self, x: Float[Tensor, "*rows inp"]) -> Float[Tensor, "*rows out"]:
        return self.linear(x) + low_rank(x, *self._live.factors[self._name])


def low_rank(
    x: Float[Tensor, "*rows inp"], down: Float[Tensor, "1 rank inp"], up: Float[Tensor, "1 out rank"]
) -> Float[Tensor, "*rows out"]:
    """Return up(down x).

    Computed by `bmm` with one batch, since XNNPACK takes no `mm` of two operands that are not constants.
    """
    rows = x.reshape(1, -1, x.shape[-1])
    added = torch.bmm(torch.bmm(rows, down.transpose(1, 2)), up.transpose(1, 2))
    return added.reshape(*x.shape[:-1], up.shape[1])


class AdaptedUNet(nn.Module):
    """A diffusers UNet whose inputs and output have names, and whose attention linears take an adapter.

    The UNet is taken over: its attention linears are replaced in place. With `layout` None it stays as it is and has no
    adapter inputs, as the base model, or one with a LoRA fused in.
    """

    def __init__(self, unet: Any, layout: Layout | None) -> None:
        super().__init__()
        self.layout, self._live = layout, _Live()
        for name in layout.modules if layout else ():
            unet.set_submodule(name, AdaptedLinear(unet.get_submodule(name), self._live, name))
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Run one step and return `noise_pred` (B, 4, h, w).

        Inputs: sample (B, 4, h, w), timestep (B), encoder_hidden_states (B, 77, d), text_embeds (B, p),
        time_ids (B, 6), and adapter_{group}_down (N, rank, in), adapter_{group}_up (N, out, rank) for every group.
        """
        states, pooled, sizes = (tensors[name] for name in CONDITIONS)
        self._live.factors = self._rows(tensors)
        noise = self.unet(
            sample,
            timestep,
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        self._live.factors = {}
        return {"noise_pred": noise}

    def _rows(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for group in self.layout.groups if self.layout else ():
            down, up = tensors[f"adapter_{group.down}"], tensors[f"adapter_{group.up}"]
            factors |= {module: (down[row : row + 1], up[row : row + 1]) for row, module in enumerate(group.modules)}
        return factors


def unet_graph(unet: Any, layout: Layout | None, rank: int, size: ImageSize, module: nn.Module | None = None) -> Graph:
    """Make the graph of a diffusers UNet for images of one size, and take the UNet over.

    `rank` is that of one LoRA: the adapter's is twice as large. Without a layout there are no adapter inputs. With a
    `module` of the caller's the UNet is left alone, and only its sizes are read. What the time embedding is made of
    stays in fp32: in half precision t·frequency loses what tells steps apart.
    """
    config, batch, latent = unet.config, size.batch, size.latent
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    widths = dict(zip(CONDITIONS, ((batch, 77, config.cross_attention_dim), (batch, pooled), (batch, 6)), strict=True))
    inputs: dict[str, Shape] = {"sample": (batch, config.in_channels, latent, latent), "timestep": (batch,), **widths}
    # text_embeds too, since it is joined with what becomes of time_ids.
    dtypes = dict.fromkeys(("timestep", "text_embeds", "time_ids"), torch.float32)
    if layout is not None:
        inputs |= adapter_shapes(layout)
    outputs: dict[str, Shape] = {"noise_pred": (batch, config.out_channels, latent, latent)}
    side = float(size.pixels)
    sizes = {"values": [side, side, 0.0, 0.0, side, side] * batch}
    module = AdaptedUNet(unet, layout) if module is None else module
    return Graph("unet", module, inputs, outputs, {"merged_rank": 2 * rank}, dtypes, {"time_ids": sizes}, owned=True)
