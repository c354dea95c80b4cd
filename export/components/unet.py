"""SDXL's UNet with adapter inputs: a stack of LoRAs and coefficients come in beside the latents, by name."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from export.components.adapted import Adapters
from export.graph import Graph, ImageSize, golden_roles
from lorarar.base.names import pooled_width
from lorarar.base.untrained import MAX_TOKENS
from lorarar.errors import InputError
from lorarar.layout import ROLES, Layout, Shape, StackSize, adapter_inputs
from runtime_py.sinusoids import SIZE_SINUSOIDS, SIZES, TIMESTEP_SINUSOIDS

CONDITIONS = ("encoder_hidden_states", "text_embeds", SIZE_SINUSOIDS)
"""The inputs that tell the UNet what to draw, beside the latents and the time."""


class AdaptedUNet(nn.Module):
    """A diffusers UNet whose inputs and output have names, and whose linears of a layout take a stack of LoRAs.

    The UNet is taken over: these linears are replaced in place. With `layout` None it stays as it is and has no adapter
    inputs, as the base model, or one with a LoRA fused in. `form` is a key of `export.components.adapted.FORMS`.

    The sinusoids of time and size are inputs: in half precision t·frequency loses what tells steps apart, and without
    them the whole UNet can be in half precision.
    """

    def __init__(self, unet: Any, layout: Layout | None, form: str = "matmul") -> None:
        super().__init__()
        _require_usual_sinusoids(unet.config)
        unet.get_time_embed = _as_given
        unet.add_time_proj = nn.Identity()
        self._adapters = Adapters(unet, layout.of("unet") if layout else (), form)
        self.unet = unet

    def forward(self, sample: Tensor, timestep_sinusoids: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        """Run one step and return `noise_pred` (B, 4, h, w).

        Inputs: sample (B, 4, h, w), timestep_sinusoids (B, t), encoder_hidden_states (B, 77, d), text_embeds (B, p),
        size_sinusoids (B, 6 s), roles (R, K), and for every group adapter_{group}_down (N, R, in), adapter_{group}_up
        (N, out, R) and coefficients_{group} (B, N, K, in).
        """
        states, pooled, sizes = (tensors[name] for name in CONDITIONS)
        self._adapters.put(tensors)
        noise = self.unet(
            sample,
            timestep_sinusoids,
            encoder_hidden_states=states,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
            return_dict=False,
        )[0]
        self._adapters.clear()
        return {"noise_pred": noise}


def _as_given(sample: Tensor, timestep: Tensor) -> Tensor:
    """Take the place of diffusers' UNet2DConditionModel.get_time_embed, which makes the sinusoids of a time."""
    return timestep.to(sample.dtype)


def _require_usual_sinusoids(config: Any) -> None:
    """Refuse a UNet whose sinusoids are not those that every runtime here makes (`runtime_py.sinusoids`)."""
    if (config.flip_sin_to_cos, config.freq_shift) != (True, 0):
        raise InputError(
            f"the base's UNet has flip_sin_to_cos={config.flip_sin_to_cos} and freq_shift={config.freq_shift}, and "
            "SDXL's True and 0 alone are known here; take another `base`"
        )


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
    of the caller's the UNet is left alone, and only its sizes are read.
    """
    config, batch, latent = unet.config, size.batch, size.latent
    sizes = SIZES * config.addition_time_embed_dim
    shapes = ((batch, MAX_TOKENS, config.cross_attention_dim), (batch, pooled_width(config)), (batch, sizes))
    inputs: dict[str, Shape] = {
        "sample": (batch, config.in_channels, latent, latent),
        TIMESTEP_SINUSOIDS: (batch, config.block_out_channels[0]),
        **dict(zip(CONDITIONS, shapes, strict=True)),
    }
    inputs |= adapter_inputs(layout.of("unet") if layout else (), stack.loras, batch)
    outputs: dict[str, Shape] = {"noise_pred": (batch, config.out_channels, latent, latent)}
    module = AdaptedUNet(unet, layout, form) if module is None else module
    return Graph("unet", module, inputs, outputs, stack.named, golden={ROLES: golden_roles(stack)}, owned=True)
