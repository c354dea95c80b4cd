"""Rewrite a network into the operations that a target's runtime handles best; the mathematics stay.

Done after the golden outputs were computed, so that diffusers' own form stays the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from jaxtyping import Float
from torch import Tensor, nn

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


def attend_by_heads(
    query: Float[Tensor, "b tokens d"], key: Float[Tensor, "b keys d"], value: Float[Tensor, "b keys d"], count: int
) -> Float[Tensor, "b tokens d"]:
    """Return the same head by head and with channels before tokens, for Apple's Neural Engine.

    The two einsums are Apple's own (Deploying Transformers on the Apple Neural Engine, 2022).
    """
    queries = query.transpose(1, 2).unsqueeze(2).chunk(count, dim=1)
    keys = key.unsqueeze(2).chunk(count, dim=3)
    values = value.transpose(1, 2).unsqueeze(2).chunk(count, dim=1)
    mixed = []
    for one_query, one_key, one_value in zip(queries, keys, values, strict=True):
        weights = F.softmax(torch.einsum("bchq,bkhc->bkhq", one_query, one_key), dim=1)
        mixed.append(torch.einsum("bkhq,bchk->bchq", weights, one_value))
    return torch.cat(mixed, dim=1).squeeze(2).transpose(1, 2)


ATTENTIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor, int], Tensor]] = {
    "original": attend_in_products,
    "split-einsum": attend_by_heads,
}
"""By the names that `export.targets.target.Target.attentions` holds."""


class ExplicitAttention:
    """An attention processor of diffusers that computes softmax(q kᵀ / √d) v as one of ATTENTIONS. There is no mask."""

    def __init__(self, attention: str) -> None:
        self.attend = ATTENTIONS[attention]

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b tokens d"],
        encoder_hidden_states: Float[Tensor, "b keys c"] | None = None,
        attention_mask: None = None,
        **_: Any,
    ) -> Float[Tensor, "b tokens d"]:
        assert attention_mask is None, "SDXL's networks mask nothing"
        if hidden_states.ndim == 4:  # the VAE's, over pixels
            tokens = attn.group_norm(hidden_states).flatten(2).transpose(1, 2)
            return hidden_states + self(attn, tokens).transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # The scale goes into the query: tokens × d numbers to multiply instead of tokens × keys.
        query = attn.to_q(hidden_states) * attn.scale
        return attn.to_out[0](self.attend(query, attn.to_k(context), attn.to_v(context), attn.heads))


class GroupNormAsLayerNorm(nn.Module):
    """GroupNorm computed by layer_norm over each group, on one axis or, with `by_rows`, on two.

    Core ML has no group norm. Its converter squares x − mean instead, which overflows fp16 from 256 on without a word;
    its layer_norm is one operation that does not. On one axis a group of SDXL's has up to 491,520 numbers, and the
    Neural Engine takes 16,384 on an axis; on two there are 1280 and 128 at most, and 16,384 and 1024 in the VAE. QNN's
    layer norm takes one axis.
    """

    def __init__(self, norm: nn.GroupNorm, by_rows: bool = False) -> None:
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias
        self.by_rows = by_rows

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        axes = (-1, x.shape[-1]) if self.by_rows else (-1,)
        grouped = x.reshape(x.shape[0], self.groups, *axes)
        normal = F.layer_norm(grouped, grouped.shape[2:], eps=self.eps).reshape(x.shape)
        return normal * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)


class ExplicitLayerNorm(nn.Module):
    """LayerNorm in operations that XNNPACK takes, so that the norm does not split the graph."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class TabledTimesteps(nn.Module):
    """The sines and cosines of a time or a size, looked up in a table of whole numbers.

    A runtime without fp32 multiplies t and a frequency in fp16, with steps of 0.25 at t = 500: a wrong angle, of 32 dB.
    Whole numbers up to 2048 are exact in fp16, and so is a row for each.
    """

    table: Tensor

    def __init__(self, timesteps: Timesteps) -> None:
        super().__init__()
        self.register_buffer("table", timesteps(torch.arange(LARGEST_WHOLE + 1.0)))

    def forward(self, times: Float[Tensor, " n"]) -> Float[Tensor, "n d"]:
        return F.embedding(times.to(torch.int32), self.table).float()  # as diffusers returns it


class PreciseSiLU(nn.Module):
    """SiLU as x / (1 + exp(−x)), for runtimes whose sigmoid is right to 2e-4 alone.

    Times x = −8 that is an error of 2e-3, which all that follows of the time embedding has. Where exp overflows fp16,
    below −11, the result is 0 instead of −2e-4.
    """

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        return x / (1 + torch.exp(-x))


def with_precise_silu(embedding: TimestepEmbedding) -> TimestepEmbedding:
    """Give a time embedding, of few numbers, the slower and more precise activation."""
    embedding.act = PreciseSiLU()
    return embedding


TIME_TABLE = "time from a table"
LARGEST_WHOLE = 2048  # up to which fp16 has every whole number
REPLACED: Mapping[str, tuple[type[nn.Module], Callable[[Any], nn.Module]]] = {
    "group norm as layer norm": (nn.GroupNorm, GroupNormAsLayerNorm),
    "group norm as layer norm of rows": (nn.GroupNorm, partial(GroupNormAsLayerNorm, by_rows=True)),
    "layer norm in plain operations": (nn.LayerNorm, ExplicitLayerNorm),
    TIME_TABLE: (Timesteps, TabledTimesteps),
    "time embedding with a precise silu": (TimestepEmbedding, with_precise_silu),
}
"""By the names that `export.targets.target.Target.replaced` holds: the module, and what takes its place."""


def rewrite_for(target: Target, network: Any, attention: str = "original") -> None:
    """Rewrite a diffusers UNet or VAE in place for a target; `attention` is a key of ATTENTIONS."""
    # An AutoencoderTiny attends to nothing.
    if not target.fuses_attention and hasattr(network, "set_attn_processor"):
        network.set_attn_processor(ExplicitAttention(attention))
    for replaced in target.replaced:
        kind, make = REPLACED[replaced]
        for name, module in list(network.named_modules()):
            if type(module) is kind:
                network.set_submodule(name, make(module))
