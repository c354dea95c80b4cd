"""SDXL's networks with channels before tokens, (B, C, 1, S), as Apple's Neural Engine computes; the mathematics stay.

Linears are 1×1 convolutions, nothing is transposed but the text, and attention goes head by head: Apple's form
(Deploying Transformers on the Apple Neural Engine, 2022). In it a LoRA is up·(down·X), with the factors as they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from export.components.adapted import AdaptedLinear
from runtime_py.component import INNER

MOST_SCORES = 4 * 2**20
"""Attention scores of one head that are computed at once; more queries are taken in equal pieces."""
_HIDDEN = -1e4  # exp of it is 0, in fp16 too


@torch.library.custom_op("lorarar::channel_norm", mutates_args=())
def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the layer norm of (B, C, 1, S) over its channels: one operation of Core ML's, which PyTorch lacks."""
    return F.layer_norm(x.transpose(1, 3), weight.shape, weight, bias, eps).transpose(1, 3).contiguous()


@channel_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return torch.empty_like(x)


def attend(
    query: Float[Tensor, "b c 1 s"], key: Float[Tensor, "b c 1 t"], value: Float[Tensor, "b c 1 t"], heads: int
) -> Float[Tensor, "b c 1 s"]:
    """Return softmax(keyᵀ query) value of each head in turn, so that the scores of one are in memory, not of all.

    Keys are padded to a multiple of INNER, with scores that count for nothing.
    """
    count = key.shape[3]
    spare = -count % INNER
    hidden = F.pad(query.new_zeros(1, count, 1), (0, 0, 0, spare), value=_HIDDEN)
    pieces = _pieces(query.shape[3], count)
    mixed = []
    for of_query, of_key, of_value in zip(
        query.squeeze(2).chunk(heads, dim=1),
        F.pad(key.squeeze(2), (0, spare)).chunk(heads, dim=1),
        F.pad(value.squeeze(2), (0, spare)).chunk(heads, dim=1),
        strict=True,
    ):
        done = []
        for some in of_query.chunk(pieces, dim=2):
            scores = torch.matmul(of_key.transpose(1, 2), some)
            done.append(torch.matmul(of_value, F.softmax(scores + hidden if spare else scores, dim=1)))
        mixed.append(torch.cat(done, dim=2) if pieces > 1 else done[0])
    return torch.cat(mixed, dim=1).unsqueeze(2)


def _pieces(queries: int, keys: int) -> int:
    """Return into how many equal pieces the queries go, the fewest that keep one's scores under MOST_SCORES."""
    least = math.ceil(queries * keys / MOST_SCORES)
    return next(pieces for pieces in range(max(1, least), queries + 1) if queries % pieces == 0)


class PointwiseLinear(nn.Module):
    """A linear over the channels of (B, in, 1, S), as a 1×1 convolution."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        assert isinstance(linear, nn.Linear)
        self.weight = nn.Parameter(linear.weight.detach()[:, :, None, None], requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "b inp 1 s"]) -> Float[Tensor, "b out 1 s"]:
        return F.conv2d(x, self.weight, self.bias)


class VectorLinear(PointwiseLinear):
    """The same over vectors (B, in)."""

    def forward(self, x: Float[Tensor, "b inp"]) -> Float[Tensor, "b out"]:
        return super().forward(x[:, :, None, None]).flatten(1)


class AdaptedPointwise(nn.Module):
    """A linear as a 1×1 convolution, to whose output the LoRAs of the running pass are added."""

    def __init__(self, adapted: AdaptedLinear) -> None:
        super().__init__()
        self.linear, self._adapters, self._name = PointwiseLinear(adapted.linear), adapted.adapters, adapted.name

    def forward(self, x: Float[Tensor, "b inp 1 s"]) -> Float[Tensor, "b out 1 s"]:
        down, up, coefficients = self._adapters.rows[self._name]
        roles = self._adapters.roles
        # roles·m as a sum over the LoRAs: as a product its inner size would be their number.
        shares = sum(roles[:, k : k + 1] * coefficients[:, k : k + 1] for k in range(roles.shape[1]))
        added = torch.matmul(up, torch.matmul(down * shares, x.squeeze(2)))
        return self.linear(x) + added.unsqueeze(2)


def pointwise(linear: nn.Module) -> nn.Module:
    """Return a linear, or one with LoRAs, as a 1×1 convolution."""
    return AdaptedPointwise(linear) if isinstance(linear, AdaptedLinear) else PointwiseLinear(linear)


class ChannelNorm(nn.Module):
    """A layer norm over the channels of (B, C, 1, S)."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Float[Tensor, "b c 1 s"]) -> Float[Tensor, "b c 1 s"]:
        return channel_norm(x, self.weight, self.bias, self.eps)


class ChannelsFirstAttention(nn.Module):
    """diffusers' Attention over (B, C, 1, S)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (pointwise(getattr(attention, name)) for name in ("to_q", "to_k", "to_v"))
        self.to_out = pointwise(attention.to_out[0])
        self.heads, self.scale = attention.heads, attention.scale

    def forward(self, x: Float[Tensor, "b c 1 s"], context: Float[Tensor, "b d 1 t"]) -> Float[Tensor, "b c 1 s"]:
        # The scale goes into the query: tokens × d numbers to multiply instead of tokens × keys.
        mixed = attend(self.to_q(x) * self.scale, self.to_k(context), self.to_v(context), self.heads)
        return self.to_out(mixed)


class PixelAttention(nn.Module):
    """The attention of a VAE, over the pixels of (B, C, H, W)."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.group_norm, self.attention = attention.group_norm, ChannelsFirstAttention(attention)

    def forward(self, x: Float[Tensor, "b c h w"], *_: Any, **__: Any) -> Float[Tensor, "b c h w"]:
        tokens = self.group_norm(x).flatten(2).unsqueeze(2)
        return x + self.attention(tokens, tokens).reshape(x.shape)


class ChannelsFirstBlock(nn.Module):
    """diffusers' BasicTransformerBlock over (B, C, 1, S)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (
            ChannelNorm(block.norm1),
            ChannelNorm(block.norm2),
            ChannelNorm(block.norm3),
        )
        self.attn1, self.attn2 = ChannelsFirstAttention(block.attn1), ChannelsFirstAttention(block.attn2)
        self.wide, self.narrow = pointwise(block.ff.net[0].proj), pointwise(block.ff.net[2])

    def forward(self, x: Float[Tensor, "b c 1 s"], context: Float[Tensor, "b d 1 t"]) -> Float[Tensor, "b c 1 s"]:
        normal = self.norm1(x)
        x = x + self.attn1(normal, normal)
        x = x + self.attn2(self.norm2(x), context)
        value, gate = self.wide(self.norm3(x)).chunk(2, dim=1)
        return x + self.narrow(value * F.gelu(gate))


class ChannelsFirstTransformer(nn.Module):
    """diffusers' Transformer2DModel of SDXL."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.norm = transformer.norm
        self.proj_in, self.proj_out = pointwise(transformer.proj_in), pointwise(transformer.proj_out)
        self.transformer_blocks = nn.ModuleList(ChannelsFirstBlock(block) for block in transformer.transformer_blocks)

    def forward(
        self, x: Float[Tensor, "b c h w"], encoder_hidden_states: Float[Tensor, "b t d"], **_: Any
    ) -> tuple[Float[Tensor, "b c h w"]]:
        context = encoder_hidden_states.transpose(1, 2).unsqueeze(2)
        tokens = self.proj_in(self.norm(x).flatten(2).unsqueeze(2))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return (x + self.proj_out(tokens).reshape(x.shape),)
