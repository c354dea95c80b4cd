"""SDXL's UNet with live adapters: the merger's outputs come in as inputs, by name.

An attention linear then gives W x + b + up(down x). No ΔW is formed and no weight changes, so a new LoRA costs nothing
but handing over other tensors, on every runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.layout import Layout

CONDITIONS = ("encoder_hidden_states", "text_embeds", "time_ids")
"""What the UNet is told beside the latents and the timestep."""


class _Live:
    """The factors of the pass being run, by module name.

    A plain object: a module that keeps tensors in a dict of its own goes on using the ones it was traced with.
    """

    def __init__(self) -> None:
        self.factors: Mapping[str, tuple[Tensor, Tensor]] = {}


class AdaptedLinear(nn.Module):
    """A linear, and the LoRA of the current pass."""

    def __init__(self, linear: nn.Linear, live: _Live, name: str) -> None:
        super().__init__()
        self.linear, self._live, self._name = linear, live, name

    def forward(self, x: Float[Tensor, "*rows inp"]) -> Float[Tensor, "*rows out"]:
        return self.linear(x) + low_rank(x, *self._live.factors[self._name])


def low_rank(
    x: Float[Tensor, "*rows inp"], down: Float[Tensor, "1 rank inp"], up: Float[Tensor, "1 out rank"]
) -> Float[Tensor, "*rows out"]:
    """up(down x). As `bmm` with one batch: XNNPACK takes no `mm` of two operands that are not constants."""
    rows = x.reshape(1, -1, x.shape[-1])
    added = torch.bmm(torch.bmm(rows, down.transpose(1, 2)), up.transpose(1, 2))
    return added.reshape(*x.shape[:-1], up.shape[1])


class AdaptedUNet(nn.Module):
    """Named tensors in, `{"noise_pred": …}` out.

    Takes the UNet over: its attention linears are replaced in place. `layout` None leaves the UNet as it is, without
    adapter inputs: the base model, or one with a LoRA fused in.
    """

    def __init__(self, unet: Any, layout: Layout | None) -> None:
        super().__init__()
        self.layout, self._live = layout, _Live()
        for name in layout.modules if layout else ():
            parent, _, last = name.rpartition(".")
            owner = unet.get_submodule(parent)
            setattr(owner, last, AdaptedLinear(unet.get_submodule(name), self._live, name))
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """One step. sample (B, 4, h, w), timestep (B), encoder_hidden_states (B, 77, d), text_embeds (B, p),
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
