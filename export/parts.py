"""What a pipeline needs beside the UNet, as graphs: CLIP's text encoders and the VAE's decoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

MASKED = -1e4  # what a token may not look at gets before the softmax; representable in fp16, unlike −∞'s usual stand-in
_LEGACY_END = 2  # the end token in old configs, whatever it really is; the highest token number is meant then


class TextEncoder(nn.Module):
    """One of SDXL's CLIP text encoders, written in products and softmax: transformers' own trace holds operations that
    coremltools lacks.

    Gives what StableDiffusionXLPipeline takes of it: the next-to-last hidden states and, from the encoder that has a
    projection, the projected state of the end token. Shares the model's weights.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = getattr(model, "text_model", model)
        self.projection = getattr(model, "text_projection", None)
        self.width: int = model.config.hidden_size
        self.end: int = model.config.eos_token_id
        length = model.config.max_position_embeddings
        mask = torch.full((length, length), MASKED).triu(1)
        self.mask = nn.Buffer(mask, persistent=False)

    def forward(self, input_ids: Int[Tensor, "1 tokens"]) -> dict[str, Tensor]:
        """{"hidden_states": (1, tokens, d)} and perhaps {"text_embeds": (1, p)}."""
        embeddings, layers = self.text.embeddings, list(self.text.encoder.layers)
        x = embeddings.token_embedding(input_ids) + embeddings.position_embedding.weight[None, : input_ids.shape[1]]
        for layer in layers[:-1]:
            x = self._layer(layer, x)
        found = {"hidden_states": x}
        if self.projection is not None:
            last = self.text.final_layer_norm(self._layer(layers[-1], x))
            found["text_embeds"] = self.projection(self._at_end(last, input_ids))
        return found

    def _layer(self, layer: Any, x: Float[Tensor, "1 tokens d"]) -> Float[Tensor, "1 tokens d"]:
        x = x + self._attend(layer.self_attn, layer.layer_norm1(x))
        return x + layer.mlp(layer.layer_norm2(x))

    def _attend(self, attn: Any, x: Float[Tensor, "1 tokens d"]) -> Float[Tensor, "1 tokens d"]:
        def heads(y: Tensor) -> Float[Tensor, "h tokens c"]:
            return y.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2).flatten(0, 1)

        query, key, value = heads(attn.q_proj(x)), heads(attn.k_proj(x)), heads(attn.v_proj(x))
        scores = torch.bmm(query * attn.scale, key.transpose(1, 2)) + self.mask[None]
        mixed = torch.bmm(F.softmax(scores, dim=-1), value)
        return attn.out_proj(mixed.unflatten(0, (-1, attn.num_heads)).transpose(1, 2).flatten(2))

    def _at_end(self, x: Float[Tensor, "1 tokens d"], input_ids: Int[Tensor, "1 tokens"]) -> Float[Tensor, "1 d"]:
        """The state of the first end token, as a product with one row of 0 and 1: exact, and no gather is needed."""
        marks = input_ids if self.end == _LEGACY_END else (input_ids == self.end).to(torch.int32)
        place = marks.argmax(dim=-1, keepdim=True)
        row = (torch.arange(input_ids.shape[1], device=x.device)[None] == place).to(x.dtype)
        return torch.bmm(row[:, None], x)[:, 0]


class ImageDecoder(nn.Module):
    """The decoder of a VAE or of an AutoencoderTiny, with what the pipeline does before and after it."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = getattr(vae, "post_quant_conv", None), vae.decoder
        mean, spread = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        known = mean is not None and spread is not None
        channels = (1, vae.config.latent_channels, 1, 1)
        factor = torch.tensor(spread if known else [1.0] * channels[1]).reshape(channels) / vae.config.scaling_factor
        self.factor = nn.Buffer(factor, persistent=False)
        mean = torch.tensor(mean if known else [0.0] * channels[1]).reshape(channels)
        self.mean = nn.Buffer(mean, persistent=False)

    def forward(self, latents: Float[Tensor, "1 4 h w"]) -> dict[str, Float[Tensor, "1 3 y x"]]:
        x = latents * self.factor + self.mean
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        return {"image": (self.decoder(x) / 2 + 0.5).clamp(0, 1)}


class TextReference(nn.Module):
    """The same outputs from transformers' own forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Int[Tensor, "1 tokens"]) -> dict[str, Tensor]:
        found = self.model(input_ids, output_hidden_states=True)
        pooled = getattr(found, "text_embeds", None)
        states = {"hidden_states": found.hidden_states[-2]}
        return states if pooled is None else states | {"text_embeds": pooled}


class ImageReference(nn.Module):
    """The same output from diffusers' own VAE and image processor."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Float[Tensor, "1 4 h w"]) -> dict[str, Float[Tensor, "1 3 y x"]]:
        config = self.vae.config
        if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
            mean, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
            latents = latents * spread / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor
        return {"image": (self.vae.decode(latents, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)}
