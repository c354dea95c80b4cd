"""The VAE's decoder: latents as the scheduler leaves them in, pixels in [0, 1] out."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.graph import Graph, ImageSize
from lorarar.layout import Shape


class ImageDecoder(nn.Module):
    """The decoder of an AutoencoderKL or AutoencoderTiny, with the scaling that a pipeline does before and after it."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = getattr(vae, "post_quant_conv", None), vae.decoder
        mean, spread = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        channels = vae.config.latent_channels
        if mean is None or spread is None:
            mean, spread = [0.0] * channels, [1.0] * channels
        mean, spread = (torch.tensor(values).reshape(1, channels, 1, 1) for values in (mean, spread))
        self.factor = nn.Buffer(spread / vae.config.scaling_factor, persistent=False)
        self.mean = nn.Buffer(mean, persistent=False)

    def forward(self, latents: Float[Tensor, "1 4 h w"]) -> dict[str, Float[Tensor, "1 3 y x"]]:
        x = latents * self.factor + self.mean
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        return {"image": (self.decoder(x) / 2 + 0.5).clamp(0, 1)}


class ImageReference(nn.Module):
    """The same output, computed by diffusers' own VAE and image processor: the reference of the golden tensors."""

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


def vae_graph(vae: Any, size: ImageSize, owned: bool = False) -> Graph:
    """Make the graph of the decoder of a diffusers VAE, for one image. An `owned` VAE is used up by the conversion."""
    latents: Shape = (1, vae.config.latent_channels, size.latent, size.latent)
    image: Shape = (1, vae.config.out_channels, size.pixels, size.pixels)
    shapes = {"latents": latents}, {"image": image}
    return Graph("vae_decoder", ImageDecoder(vae), *shapes, {}, owned=owned, reference=ImageReference(vae))
