"""SDXL's UNet with adapter inputs: a stack of LoRAs and coefficients come in beside the latents, by name.

A linear gives W x + b + up·((down ⊙ (roles·m)) x), m being this image's coefficients: Eq. 2 of the paper for any number
of LoRAs. No ΔW is formed and no weight changes, so that another LoRA is other tensors, and another merge other
coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph import Graph, ImageSize, golden_roles
from lorarar.layout import ROLES, Layout, Shape, StackSize, adapter_shapes, coefficient_shapes, roles_shape

CONDITIONS = ("encoder_hidden_states", "text_embeds", "time_ids")
"""The inputs that tell the UNet what to draw, beside the latents and the timestep."""


def add_by_matmul(
    x: Float[Tensor, "b tokens inp"],
    down: Float[Tensor, "rank inp"],
    up: Float[Tensor, "out rank"],
    roles: Float[Tensor, "rank loras"],
    coefficients: Float[Tensor, "b loras inp"],
) -> Float[Tensor, "b tokens out"]:
    """Return up·((down ⊙ (roles·m)) x), each image with coefficients of its own."""
    scaled = down * torch.matmul(roles, coefficients)
    return torch.matmul(torch.matmul(x, scaled.transpose(1, 2)), up.transpose(0, 1))


def add_by_bmm(
    x: Float[Tensor, "b tokens inp"],
    down: Float[Tensor, "rank inp"],
    up: Float[Tensor, "out rank"],
    roles: Sequence[Float[Tensor, "rank 1"]],
    coefficients: Float[Tensor, "b loras inp"],
) -> Float[Tensor, "b tokens out"]:
    """Return the same for XNNPACK: of operands that are not constants it multiplies `bmm` of equal batches alone."""
    terms = [column * mine for column, mine in zip(roles, coefficients.split(1, dim=1), strict=True)]
    scaled = down[None] * sum(terms[1:], terms[0])
    shared = torch.bmm(x, scaled.transpose(1, 2)).reshape(1, -1, len(down))
    return torch.bmm(shared, up.transpose(0, 1)[None]).reshape(len(x), -1, len(up))


class Form(NamedTuple):
    """A way to add LoRAs to a linear."""

    prepare: Callable[[Tensor], Any]  # makes of the roles what every layer takes
    add: Callable[..., Tensor]


FORMS: Mapping[str, Form] = {
    "matmul": Form(lambda roles: roles, add_by_matmul),
    "bmm": Form(lambda roles: roles.split(1, dim=1), add_by_bmm),
}
"""By the names that `export.targets.target.Target.adapter_form` holds."""


class _Live:
    """The stack and the coefficients of the pass that is running, by the module that takes them.

    A plain object, since a module that kept tensors in a dict of its own would go on using those it was traced with.
    """

    def __init__(self, form: str) -> None:
        self.form = FORMS[form]
        self.roles: Any = None
        self.rows: Mapping[str, tuple[Tensor, Tensor, Tensor]] = {}


class AdaptedLinear(nn.Module):
    """A linear to whose output the LoRAs of the running pass are added."""

    def __init__(self, linear: nn.Linear, live: _Live, name: str) -> None:
        super().__init__()
        self.linear, self._live, self._name = linear, live, name

    def forward(self, x: Float[Tensor, "b tokens inp"]) -> Float[Tensor, "b tokens out"]:
        down, up, coefficients = self._live.rows[self._name]
        # Scaled here, not for a whole group: one layer's rows stay in the cores' cache until they are used.
        return self.linear(x) + self._live.form.add(x, down, up, self._live.roles, coefficients)


class AdaptedUNet(nn.Module):
    """A diffusers UNet whose inputs and output have names, and whose linears of a layout take a stack of LoRAs.

    The UNet is taken over: these linears are replaced in place. With `layout` None it stays as it is and has no adapter
    inputs, as the base model, or one with a LoRA fused in. `form` is a key of FORMS.
    """

    def __init__(self, unet: Any, layout: Layout | None, form: str = "matmul") -> None:
        super().__init__()
        self.layout, self._live = layout, _Live(form)
        for name in layout.modules if layout else ():
            unet.set_submodule(name, AdaptedLinear(unet.get_submodule(name), self._live, name))
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Run one step and return `noise_pred` (B, 4, h, w).

        Inputs: sample (B, 4, h, w), timestep (B), encoder_hidden_states (B, 77, d), text_embeds (B, p), time_ids (B,
        6), roles (R, K), and for every group adapter_{group}_down (N, R, in), adapter_{group}_up (N, out, R) and
        coefficients_{group} (B, N, K, in).
        """
        states, pooled, sizes = (tensors[name] for name in CONDITIONS)
        if self.layout is not None:
            self._live.roles, self._live.rows = self._live.form.prepare(tensors[ROLES]), self._rows(tensors)
        noise = self.unet(
            sample,
            timestep,
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        self._live.roles, self._live.rows = None, {}
        return {"noise_pred": noise}

    def _rows(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        rows: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for group in self.layout.groups if self.layout else ():
            down, up, coefficients = (tensors[name] for name in (group.down, group.up, group.coefficients))
            for row, module in enumerate(group.modules):
                rows[module] = (down[row], up[row], coefficients[:, row])
        return rows


def unet_graph(
    unet: Any,
    layout: Layout | None,
    stack: StackSize,
    size: ImageSize,
    form: str = "matmul",
    module: nn.Module | None = None,
) -> Graph:
    """Make the graph of a diffusers UNet for images of one size, and take the UNet over.

    Without a layout there are no adapter inputs. `form` is a key of FORMS. With a `module` of the caller's the UNet
    is left alone, and only its sizes are read. What the time embedding is made of stays in fp32: in half precision
    t·frequency loses what tells steps apart.
    """
    config, batch, latent = unet.config, size.batch, size.latent
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    widths = dict(zip(CONDITIONS, ((batch, 77, config.cross_attention_dim), (batch, pooled), (batch, 6)), strict=True))
    inputs: dict[str, Shape] = {"sample": (batch, config.in_channels, latent, latent), "timestep": (batch,), **widths}
    # text_embeds too, since it is joined with what becomes of time_ids.
    dtypes = dict.fromkeys(("timestep", "text_embeds", "time_ids"), torch.float32)
    if layout is not None:
        inputs |= roles_shape(stack.loras) | adapter_shapes(layout.groups)
        inputs |= coefficient_shapes(layout.groups, stack.loras, batch)
    outputs: dict[str, Shape] = {"noise_pred": (batch, config.out_channels, latent, latent)}
    side = float(size.pixels)
    golden = {"time_ids": {"values": [side, side, 0.0, 0.0, side, side] * batch}, ROLES: golden_roles(stack)}
    module = AdaptedUNet(unet, layout, form) if module is None else module
    return Graph("unet", module, inputs, outputs, stack.named, dtypes, golden, owned=True)
