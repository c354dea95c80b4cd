"""CLIP's two text encoders: the tokens of a prompt in, the states that the UNet is told out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from export.components.adapted import NO_ADAPTERS, Adapters
from export.graph import Graph, golden_roles
from lorarar.layout import ROLES, Layout, Shape, StackSize, adapter_inputs

MASKED = -1e4
"""What scores of tokens that may not be looked at get before the softmax; fp16 holds it, unlike −∞'s usual stand-in."""
_LEGACY_END = 2  # Old configs name this end token whatever the real one is; the highest token number is the end then.


class TextEncoder(nn.Module):
    """One of SDXL's CLIP text encoders, written in products and softmax.

    A trace of transformers' own code holds operations that coremltools lacks. The outputs are what
    StableDiffusionXLPipeline takes: the next-to-last hidden states and, from the encoder that has a projection, the
    projected state of the end token. The weights are the model's own. Its linears take LoRAs where there are
    `adapters`.
    """

    def __init__(self, model: Any, adapters: Adapters | None = None) -> None:
        super().__init__()
        self._adapters = adapters or NO_ADAPTERS
        self.text = getattr(model, "text_model", model)
        self.projection = getattr(model, "text_projection", None)
        self.width: int = model.config.hidden_size
        self.end: int = model.config.eos_token_id
        length = model.config.max_position_embeddings
        mask = torch.full((length, length), MASKED).triu(1)
        self.mask = nn.Buffer(mask, persistent=False)

    def forward(self, input_ids: Int[Tensor, "1 tokens"], **tensors: Tensor) -> dict[str, Tensor]:
        """Return `hidden_states` (1, tokens, d) and, with a projection, `text_embeds` (1, p).

        With adapters the inputs are theirs too, named and shaped as the UNet's.
        """
        self._adapters.put(tensors)
        embeddings, layers = self.text.embeddings, list(self.text.encoder.layers)
        x = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight[None, : input_ids.shape[1]]
        for layer in layers[:-1]:
            x = self._layer(layer, x)
        found = {"hidden_states": x}
        if self.projection is not None:
            last = self.text.final_layer_norm(self._layer(layers[-1], x))
            found["text_embeds"] = self.projection(self._at_end(last, input_ids))
        self._adapters.clear()
        return found

    def _layer(self, layer: Any, x: Float[Tensor, "1 tokens d"]) -> Float[Tensor, "1 tokens d"]:
        x = x + self._attend(layer.self_attn, layer.layer_norm1(x))
        return x + layer.mlp(layer.layer_norm2(x))

    def _attend(self, attn: Any, x: Float[Tensor, "1 tokens d"]) -> Float[Tensor, "1 tokens d"]:
        def heads(y: Tensor) -> Float[Tensor, "h tokens c"]:
            return y.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2).flatten(0, 1)

        query, key, value = heads(attn.q_proj(x)), heads(attn.k_proj(x)), heads(attn.v_proj(x))
        tokens = x.shape[1]
        # A text encoder for long prompts has more places. The usual one's graph has no slice.
        mask = self.mask if tokens == len(self.mask) else self.mask[:tokens, :tokens]
        scores = torch.bmm(query * attn.scale, key.transpose(1, 2)) + mask[None]
        mixed = torch.bmm(F.softmax(scores, dim=-1), value)
        return attn.out_proj(mixed.unflatten(0, (-1, attn.num_heads)).transpose(1, 2).flatten(2))

    def _at_end(self, x: Float[Tensor, "1 tokens d"], input_ids: Int[Tensor, "1 tokens"]) -> Float[Tensor, "1 d"]:
        """Return the state of the first end token, by an exact product with a row of 0 and 1 that needs no gather."""
        marks = input_ids if self.end == _LEGACY_END else (input_ids == self.end).to(torch.int32)
        place = marks.argmax(dim=-1, keepdim=True)
        row = (torch.arange(input_ids.shape[1], device=x.device)[None] == place).to(x.dtype)
        return torch.bmm(row[:, None], x)[:, 0]


class TextReference(nn.Module):
    """The same outputs, computed by transformers' own forward pass: the reference of the golden tensors."""

    def __init__(self, model: Any, adapters: Adapters | None = None) -> None:
        super().__init__()
        self.model, self._adapters = model, adapters or NO_ADAPTERS

    def forward(self, input_ids: Int[Tensor, "1 tokens"], **tensors: Tensor) -> dict[str, Tensor]:
        self._adapters.put(tensors)
        found = self.model(input_ids, output_hidden_states=True)
        self._adapters.clear()
        pooled = getattr(found, "text_embeds", None)
        states = {"hidden_states": found.hidden_states[-2]}
        return states if pooled is None else states | {"text_embeds": pooled}


def text_graph(
    name: str,
    model: Any,
    tokens: Sequence[int],
    layout: Layout,
    stack: StackSize,
    form: str = "matmul",
    owned: bool = False,
    module: nn.Module | None = None,
) -> Graph:
    """Make the graph of a CLIP text encoder for one prompt at a time.

    `tokens` are its golden input, a padded prompt. The model is taken over where the layout has linears of it, whose
    LoRAs are then inputs; `form` is a key of `export.components.adapted.FORMS`. An `owned` model is used up by the
    conversion. With a `module` of the caller's the model is left alone, and only its sizes are read.
    """
    groups, length = layout.of(name), len(tokens)
    adapters = Adapters(_named_for_loras(model), groups, form) if module is None else NO_ADAPTERS
    text = TextEncoder(model, adapters)
    inputs: dict[str, Shape] = {"input_ids": (1, length), **adapter_inputs(groups, stack.loras, batch=1)}
    outputs: dict[str, Shape] = {"hidden_states": (1, length, text.width)}
    if text.projection is not None:
        outputs["text_embeds"] = (1, text.projection.out_features)
    # Token numbers in fp16 would be rounded: 49406 and 49407 would become one.
    dtypes, golden = {"input_ids": torch.int32}, {"input_ids": {"values": list(tokens)}, ROLES: golden_roles(stack)}
    reference = TextReference(model, adapters)
    return Graph(name, module or text, inputs, outputs, stack.named, dtypes, golden, owned, reference)


def _named_for_loras(model: Any) -> nn.Module:
    """Return a module that has the encoder's linears under the names that LoRAs have for them."""
    return nn.ModuleDict({"text_model": getattr(model, "text_model", model)})
