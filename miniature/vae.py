"""Train the miniature's autoencoder: 96×96 pictures to 24×24 latents of four channels, as SDXL's in small."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from miniature.loop import Loop, Schedule, fast_products, seeded
from miniature.pixels import to_pixels
from miniature.progress import Report, silent

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

CROP = 48  # the network has no attention, so it may learn from a quarter of a picture
BATCH = 32
ENCODED_AT_ONCE = 128
SCHEDULE = Schedule(steps=2600, rate=1.5e-3)
KL_WEIGHT = 1e-5  # per latent number; keeps latents near unit size without blurring pictures
START_LOGVAR = -6.0  # of the posterior: with unit noise at the start the decoder learns to ignore the encoder, for good
EDGE_WEIGHT = 1.0


def train_vae(
    vae: AutoencoderKL,
    images: UInt8[np.ndarray, "n h w 3"],
    state: Path,
    seed: int,
    schedule: Schedule = SCHEDULE,
    report: Report = silent,
    device: str = "cpu",
) -> list[float]:
    """Train in place on crops; sets `scaling_factor` so that latents have unit variance. Returns every step's loss.

    Not compiled: torch 2.13 gives the decoder wrong gradients then (the layers before its upsampling get none).
    """
    # Channels first: a step takes 0.26 s, with channels last 0.36 (2 cores; the group norm's backward pass).
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.latent_channels :] = START_LOGVAR
    settings = {"steps": schedule.steps, "rate": schedule.rate, "images": len(images), "seed": seed}

    def loss_of(step: int) -> Float[Tensor, ""]:
        generator = seeded(seed, step)
        crops = _crops(images, generator).to(device)
        with fast_products(device):
            posterior = vae.encode(crops).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return _reconstruction(decoded.float(), crops) + KL_WEIGHT * divergence

    losses = Loop([vae], schedule, state, "autoencoder", settings, report, device).run(loss_of)
    sample = encode_all(vae, images[:1024], scaled=False)
    vae.register_to_config(scaling_factor=float(1 / sample.float().std()))
    return losses


@torch.no_grad()
def encode_all(
    vae: AutoencoderKL, images: UInt8[np.ndarray, "n h w 3"], scaled: bool = True
) -> Float[Tensor, "n 4 lh lw"]:
    """Return the means of all images' latents, in half precision, times the scaling factor."""
    factor = vae.config.scaling_factor if scaled else 1.0
    parts = []
    for first in range(0, len(images), ENCODED_AT_ONCE):
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(images[first : first + ENCODED_AT_ONCE])))
        with fast_products(vae.device.type):
            mean = vae.encode(pixels.to(vae.device)).latent_dist.mean
        parts.append((mean.float() * factor).half().cpu())
    return torch.cat(parts)


def _crops(images: UInt8[np.ndarray, "n h w 3"], generator: torch.Generator) -> Float[Tensor, "b 3 c c"]:
    limit = images.shape[1] - CROP + 1
    # Multiples of the latent's pixel would be all that a whole picture needs, but any offset is more data.
    rows = torch.randint(len(images), (BATCH,), generator=generator).tolist()
    places = torch.randint(limit, (BATCH, 2), generator=generator).tolist()
    crops = [images[row, y : y + CROP, x : x + CROP] for row, (y, x) in zip(rows, places, strict=True)]
    return to_pixels(torch.from_numpy(np.stack(crops)))


def _reconstruction(decoded: Float[Tensor, "b 3 h w"], wanted: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """Return L1 of the pixels and of their differences: the second keeps strokes and outlines sharp."""
    error = decoded - wanted
    edges = F.l1_loss(decoded.diff(dim=2), wanted.diff(dim=2)) + F.l1_loss(decoded.diff(dim=3), wanted.diff(dim=3))
    return error.abs().mean() + error.square().mean() + EDGE_WEIGHT * edges
