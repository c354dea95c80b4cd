"""Rewrite a network into the operations that a target's runtime handles best; the mathematics stay.

Done after the golden outputs were computed, so that diffusers' own form stays the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from export.channels_first import ChannelsFirstTransformer, PixelAttention, VectorLinear
from export.targets.target import Target


def attend_in_products(
    query: Float[Tensor, "b tokens d"], key: Float[Tensor, "b keys d"], value: Float[Tensor, "b keys d"], count: int
) -> Float[Tensor, "b tokens d"]:
    """Return softmax(query keyᵀ) value, computed in each of `count` heads as two products and a softmax.

    PyTorch's fused operation falls apart into masks that XNNPACK leaves to slow portable kernels.
    """

    def heads(x: Tensor) -> Float[Tensor, "bh t d"]:
        return x.unflatten(-1, (count, -1)).transpose(1, 2).flatten(0, 1)

    weights = F.softmax(torch.bmm(heads(query), heads(key).transpose(1, 2)), dim=-1)
    return torch.bmm(weights, heads(value)).unflatten(0, (-1, count)).transpose(1, 2).flatten(2)


class ExplicitAttention:
    """An attention processor of diffusers that computes softmax(q kᵀ / √d) v in products. There is no mask."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b tokens d"] | Float[Tensor, "b c h w"],
        encoder_hidden_states: Float[Tensor, "b keys c"] | None = None,
        attention_mask: None = None,
        **_: Any,
    ) -> Float[Tensor, "b tokens d"] | Float[Tensor, "b c h w"]:
        assert attention_mask is None, "SDXL's networks mask nothing"
        if hidden_states.ndim == 4:  # the VAE's, over pixels
            tokens = attn.group_norm(hidden_states).flatten(2).transpose(1, 2)
            return hidden_states + self(attn, tokens).transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # The scale goes into the query: tokens × d numbers to multiply instead of tokens × keys.
        query = attn.to_q(hidden_states) * attn.scale
        return attn.to_out[0](attend_in_products(query, attn.to_k(context), attn.to_v(context), attn.heads))


class GroupNormAsLayerNorm(nn.Module):
    """GroupNorm computed by layer_norm over each group, on one axis: QNN has no other that is right for two images."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, x: Float[Tensor, "b c *d"]) -> Float[Tensor, "b c *d"]:
        grouped = self.grouped(x)
        normal = F.layer_norm(grouped, grouped.shape[2:], eps=self.eps).reshape(x.shape)
        channels = (1, -1, *(1 for _ in x.shape[2:]))
        return normal * self.weight.reshape(channels) + self.bias.reshape(channels)

    def grouped(self, x: Float[Tensor, "b c *d"]) -> Tensor:
        """Return (B, groups, …), whose last axes are a group's."""
        return x.reshape(len(x), self.groups, -1)


class GroupNormByRows(GroupNormAsLayerNorm):
    """The same on two axes, for Core ML.

    Core ML has no group norm. Its converter squares x − mean instead, which overflows fp16 from 256 on without a word;
    its layer_norm is one operation that does not. On one axis a group of SDXL's has up to 491,520 numbers, and the
    Neural Engine takes 16,384 on an axis; on two there are 1280 and 128 at most, and 16,384 and 1024 in the VAE.
    """

    def grouped(self, x: Float[Tensor, "b c *d"]) -> Tensor:
        """Return (B, groups, C / groups · H, W)."""
        return x.reshape(len(x), self.groups, -1, x.shape[-1])


class ExplicitLayerNorm(nn.Module):
    """LayerNorm in plain operations, of which XNNPACK takes all but the means, and in fp16 the two conversions."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        centred = (x - x.mean(dim=-1, keepdim=True)).float()  # in fp16 a square from 256 on would be ∞, and the norm 0
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return (centred * torch.rsqrt(variance + self.eps)).to(x.dtype) * self.weight + self.bias


class PreciseSiLU(nn.Module):
    """SiLU as x / (1 + exp(−x)), for runtimes whose sigmoid is right to 2e-4 alone.

    Times x = −8 that is an error of 2e-3, which all that follows of the time embedding has. Where exp overflows fp16,
    below −11, the result is 0 instead of −2e-4.
    """

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        return x / (1 + torch.exp(-x))


def with_products(attention: Attention) -> Attention:
    """Give an attention of diffusers the processor that computes in products."""
    attention.set_processor(ExplicitAttention())
    return attention


def with_precise_silu(embedding: TimestepEmbedding) -> TimestepEmbedding:
    """Give a time embedding, of few numbers, the slower and more precise activation."""
    embedding.act = PreciseSiLU()
    return embedding


REPLACED: Mapping[str, tuple[type[nn.Module], Callable[[Any], nn.Module]]] = {
    "group norm as layer norm": (nn.GroupNorm, GroupNormAsLayerNorm),
    "group norm as layer norm of rows": (nn.GroupNorm, GroupNormByRows),
    "transformers with channels first": (Transformer2DModel, ChannelsFirstTransformer),
    "attention over pixels with channels first": (Attention, PixelAttention),
    "attention in products": (Attention, with_products),
    "linears as convolutions": (nn.Linear, VectorLinear),
    "layer norm in plain operations": (nn.LayerNorm, ExplicitLayerNorm),
    "time embedding with a precise silu": (TimestepEmbedding, with_precise_silu),
}
"""By the names that `export.targets.target.Target.replaced` holds: the module, and what takes its place.

A target's are replaced in its order: the linears that are left when transformers and attentions are gone take vectors.
"""


def rewrite_for(target: Target, network: Any) -> None:
    """Rewrite a diffusers UNet or VAE in place for a target."""
    for replaced in target.replaced:
        kind, make = REPLACED[replaced]
        for name, module in list(network.named_modules()):
            if type(module) is kind:
                network.set_submodule(name, make(module))
