"""A base's components as training and evaluation use them, frozen, and the functions of SDXL's forward process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lorarar.base.names import name_of
from lorarar.base.sources import NETWORKS, image_side, open_pipeline, require_channels
from lorarar.errors import InputError
from lorarar.files import check_text
from lorarar.images import on_white, open_image
from lorarar.toolchains import TRAINING, named_if_missing

_NO_SETTINGS = ("transformers_version", "dtype", "torch_dtype")


@runtime_checkable
class Denoiser(Protocol):
    """The part of a base that every step of a training on latents runs: its UNet and its noise schedule."""

    unet: Any
    noise: Any  # a diffusers DDPMScheduler

    @property
    def device(self) -> torch.device: ...


@dataclass
class Components:
    """A base, frozen: no parameter asks for a gradient and every network is in eval mode.

    `vae` is in fp32 whatever the other networks' dtype: SDXL's overflows in fp16. `noise` is the base's noise schedule
    with its kind of prediction, `resolution` the side of a training image in pixels.
    """

    base: str
    tokenizers: tuple[Any, Any]
    text_encoders: tuple[Any, Any]
    vae: Any
    unet: Any
    noise: Any  # a diffusers DDPMScheduler
    resolution: int

    @classmethod
    def of(cls, pipeline: Any, base: str, resolution: int | None = None) -> Components:
        """Take an SDXL pipeline's networks as training uses them; `resolution` defaults to the UNet's own.

        Raises InputError for a UNet that draws no images from text alone, and for a side that it can't have.
        """
        from diffusers import DDPMScheduler  # not above: it takes a second

        require_channels(pipeline.unet, pipeline.vae)
        return cls(
            base=base,
            tokenizers=(pipeline.tokenizer, pipeline.tokenizer_2),
            text_encoders=(pipeline.text_encoder, pipeline.text_encoder_2),
            vae=pipeline.vae,
            unet=pipeline.unet,
            noise=DDPMScheduler.from_config(pipeline.scheduler.config),
            resolution=image_side(pipeline.unet, pipeline.vae_scale_factor, resolution),
        )

    @property
    def name(self) -> str:
        """The base's name, as `name_of` has it."""
        return name_of(self.base)

    @property
    def device(self) -> torch.device:
        """The device of the UNet."""
        return next(self.unet.parameters()).device


@dataclass(frozen=True)
class Condition:
    """What SDXL's UNet is told beside the latents; `time_ids` are original size, crop corner, target size in pixels."""

    embeds: Float[Tensor, "b tokens d"]
    pooled: Float[Tensor, "b p"]
    time_ids: Float[Tensor, "b 6"]

    def expand(self, batch: int) -> Condition:
        """Repeat one condition for a batch, without copying."""
        return Condition(*(part.expand(batch, *[-1] * (part.ndim - 1)) for part in vars(self).values()))

    def take(self, index: Int[Tensor, " n"]) -> Condition:
        """Return the rows at `index`."""
        return Condition(*(part[index] for part in vars(self).values()))

    def to(self, *args: Any, **kwargs: Any) -> Condition:
        """Apply Tensor.to to all three."""
        return Condition(*(part.to(*args, **kwargs) for part in vars(self).values()))


def load_components(
    base: str,
    *,
    untrained: bool = False,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Components:
    """Load a base: `miniature`, a diffusers folder, a single-file SDXL checkpoint, a hub id, or a named base.

    `dtype` is for the UNet and the text encoders. `resolution` defaults to the UNet's own. `untrained` gives a named
    base of full size with seeded random weights, for dry runs. Raises InputError when the base can't be had.
    """
    with named_if_missing(TRAINING, "train"):
        import_module("diffusers")
    pipeline = open_pipeline(base, untrained, dtype)
    components = Components.of(pipeline, base, resolution)
    freeze(pipeline, device)
    return components


def freeze(pipeline: Any, device: str | torch.device) -> None:
    """Put a pipeline's networks on a device, in eval mode and with no parameter that asks for a gradient."""
    for name in NETWORKS:
        getattr(pipeline, name).requires_grad_(False).eval().to(device)


def fingerprint(network: nn.Module) -> str:
    """Digest the first few numbers of every weight, which tells a retrained network from the old one in no time."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        first = tensor.detach().flatten()[:16].float().cpu().numpy()
        digest.update(name.encode() + bytes(str(tuple(tensor.shape)), "ascii") + first.tobytes())
    return digest.hexdigest()[:16]


def digest_configs(*parts: Any) -> str:
    """Digest the configs of networks, schedulers and pipelines, wherever they lie: scales, activations, predictions."""
    found = []
    for part in parts:
        config = part.config if isinstance(part.config, Mapping) else part.config.to_dict()
        # diffusers' own entries are paths, its version, and the names of its defaults in random order.
        kept = {name: value for name, value in config.items() if not name.startswith("_") and name not in _NO_SETTINGS}
        found.append([type(part).__name__, kept])
    return hashlib.sha256(json.dumps(found, sort_keys=True, default=str).encode()).hexdigest()[:16]


def pipeline_identity(pipeline: Any) -> dict[str, str]:
    """Return what tells a pipeline from others: the fingerprint of each network, and a digest of all configs."""
    networks = {name: getattr(pipeline, name) for name in NETWORKS}
    settings = digest_configs(*networks.values(), pipeline.scheduler, pipeline)
    return {name: fingerprint(network) for name, network in networks.items()} | {"configs": settings}


def training_identity(components: Components) -> dict[str, Any]:
    """Return what tells a base from others for a training: its UNet, the networks that encode, and all configs."""
    encoders = (*components.text_encoders, components.vae)
    return {
        "base_weights": fingerprint(components.unet),
        "encoder_weights": [fingerprint(encoder) for encoder in encoders],
        "base_configs": digest_configs(components.unet, *encoders, components.noise),
    }


def require_prompts(prompts: Sequence[str]) -> None:
    """Refuse an empty prompt, which tells a LoRA nothing."""
    if not all(prompt.strip() for prompt in prompts):
        raise InputError("a prompt is empty; give the LoRA's own, such as 'a sks dog'")


@torch.no_grad()
def encode_prompts(components: Components, prompts: Sequence[str]) -> Condition:
    """Encode prompts as StableDiffusionXLPipeline does, for images of the components' resolution.

    The embeddings are both encoders' next-to-last hidden states side by side (77 tokens), `pooled` is the second one's
    projection. Raises InputError for a prompt that is not UTF-8.
    """
    for prompt in prompts:
        check_text("prompt", prompt)
    states: list[Tensor] = []
    for tokenizer, encoder in zip(components.tokenizers, components.text_encoders, strict=True):
        tokens = tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        output = encoder(tokens.input_ids.to(components.device), output_hidden_states=True)
        states.append(output.hidden_states[-2])
    embeds, pooled = torch.cat(states, dim=-1), output.text_embeds
    side = float(components.resolution)
    time_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]], dtype=embeds.dtype, device=embeds.device)
    return Condition(embeds, pooled, time_ids.repeat(len(prompts), 1))


def load_image(path: Path, resolution: int) -> Float[Tensor, "3 h w"]:
    """Read an image file as RGB in [-1, 1], its central square resized to `resolution`; transparency becomes white.

    Raises InputError for a file that is not an image.
    """
    from PIL import Image, ImageOps

    square = ImageOps.fit(on_white(open_image(path)), (resolution, resolution), Image.Resampling.LANCZOS)
    array = np.asarray(square, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


@torch.no_grad()
def encode_images(components: Components, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
    """Encode images as scaled latents in fp32, the mode of the VAE's posterior."""
    vae = components.vae
    latents = vae.encode(images.to(components.device, torch.float32)).latent_dist.mode()
    shift = vae.config.shift_factor or 0.0
    return (latents - shift) * vae.config.scaling_factor


def predict(
    unet: nn.Module, latents: Float[Tensor, "b c y x"], timesteps: Int[Tensor, " b"], condition: Condition
) -> Float[Tensor, "b c y x"]:
    """Run SDXL's UNet once, in its own dtype (or autocast's). `unet` may be wrapped by PEFT or accelerate."""
    dtype = next(unet.parameters()).dtype
    condition = condition.to(dtype)
    return unet(
        latents.to(dtype),
        timesteps,
        encoder_hidden_states=condition.embeds,
        added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": condition.time_ids},
        return_dict=False,
    )[0]


def target(
    components: Denoiser,
    latents: Float[Tensor, "b c y x"],
    noise: Float[Tensor, "b c y x"],
    timesteps: Int[Tensor, " b"],
) -> Float[Tensor, "b c y x"]:
    """Return what the base is trained to predict: the noise, or v. InputError for another kind of prediction."""
    kind = components.noise.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return components.noise.get_velocity(latents, noise, timesteps)
    raise InputError(f"the base's scheduler predicts {kind!r}; epsilon and v_prediction can be trained")
