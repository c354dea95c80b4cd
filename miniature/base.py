"""Train the miniature's UNet on captioned drawings, as SDXL's is, in small; its text encoders can read by then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorarar.toolchains import quiet_toolchains
from miniature.loop import Loop, Schedule, fast_products, seeded
from miniature.progress import Report, silent

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

BATCH = 32
SCHEDULE = Schedule(steps=10_000, rate=8e-4, warmup=200)
LONGER = Schedule(steps=8_500, rate=6e-4, warmup=200)
ROUNDS = 2
"""The UNet alone is trained on in rounds of LONGER, each from the average that the one before it ended with: what a
round leaves can be used, so that a machine that is lent for hours gets as far as it gets.
"""
ENCODED_AT_ONCE = 256
DROPPED = 0.1  # share of captions replaced by nothing, for classifier-free guidance
MIN_SNR = 5.0
"""gamma of arXiv 2303.09556 in its form for v: steps of little noise weigh less, and training converges sooner. The
weight stays 1 where the signal is weaker than that, so that the step of pure noise, which sets the colours, counts.
"""


@dataclass(frozen=True)
class Captioned:
    """The training population: latents and their captions' tokens."""

    latents: Float[Tensor, "n 4 lh lw"]
    tokens: Int[Tensor, "n 77"]


def tokenize(pipeline: StableDiffusionXLPipeline, captions: Sequence[str]) -> Int[Tensor, "n 77"]:
    """Turn captions into tokens, padded to CLIP's 77 as the pipeline does."""
    tokenizer = pipeline.tokenizer
    found = tokenizer(list(captions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    return torch.tensor(found["input_ids"])


def train_base(
    pipeline: StableDiffusionXLPipeline,
    data: Captioned,
    state: Path,
    seed: int,
    schedule: Schedule = SCHEDULE,
    before: int = 0,
    batch: int = BATCH,
    device: str = "cpu",
    compiled: bool = True,
    report: Report = silent,
) -> list[float]:
    """Train the UNet in place to predict v. Returns the loss of every step.

    `before` counts the steps that it was trained for already. A step's draws are the same on every `device`. `compiled`
    needs a C++ compiler; it is 1.3× as fast, and gives other last digits.
    """
    from diffusers.models.attention_processor import AttnProcessor

    unet = pipeline.unet.to(memory_format=torch.channels_last)
    settings = {"steps": schedule.steps, "rate": schedule.rate, "images": len(data.latents), "seed": seed}
    settings |= {"before": before, "batch": batch}
    pipeline.to(device)
    loss_of = BaseLoss(pipeline, data, seed, batch, device)
    if device == "cpu":
        # The fused attention kernel's backward pass takes a third of a step at these sizes; plain products do not.
        unet.set_attn_processor(AttnProcessor())
    if compiled:
        unet.compile()
    # Dynamo warns, harmlessly, of diffusers' cached version checks.
    with quiet_toolchains():
        losses = Loop([unet], schedule, state, "base", settings, report, device).run(
            lambda step: loss_of(before + step)
        )
    unet._compiled_call_impl = None
    unet.set_default_attn_processor()
    pipeline.to("cpu")
    return losses


class BaseLoss:
    """The loss of a step: seeded batch, timesteps and noise; weighted mean squared error of v."""

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        data: Captioned,
        seed: int,
        batch: int = BATCH,
        device: str = "cpu",
    ) -> None:
        from diffusers import DDPMScheduler

        self.pipeline, self.data, self.seed = pipeline, data, seed
        self.batch, self.device = batch, device
        alphas = DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod
        self.signal, self.noise = alphas.sqrt(), (1 - alphas).sqrt()
        snr = alphas / (1 - alphas)
        self.weights = (snr.clamp(max=MIN_SNR) + 1) / (snr + 1)
        side = float(pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
        self.time_ids = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=device)
        self.kept: tuple[Tensor, Tensor] | None = None  # what the text encoders say of every caption (2 GB)

    def __call__(self, step: int) -> Float[Tensor, ""]:
        generator = seeded(self.seed, step)
        rows = torch.randint(len(self.data.latents), (self.batch,), generator=generator)
        kept = (torch.rand(self.batch, generator=generator) >= DROPPED).float().to(self.device)
        times = torch.randint(len(self.signal), (self.batch,), generator=generator)
        latents = self.data.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        latents, weights = latents.to(self.device), self.weights[times].to(self.device)
        signal, spread = (part[times].view(-1, 1, 1, 1).to(self.device) for part in (self.signal, self.noise))
        noisy = signal * latents + spread * noise
        with fast_products(self.device):
            embeds, pooled = self.text(rows)
            predicted = self.pipeline.unet(
                noisy.contiguous(memory_format=torch.channels_last),
                times.to(self.device),
                embeds * kept.view(-1, 1, 1),
                # Zeros are what the pipeline gives for no prompt (force_zeros_for_empty_prompt).
                added_cond_kwargs={
                    "text_embeds": pooled * kept.view(-1, 1),
                    "time_ids": self.time_ids.repeat(self.batch, 1),
                },
            ).sample
        error = (predicted.float() - (signal * noise - spread * latents)).square().mean(dim=(1, 2, 3))
        return (weights * error).mean()

    def text(self, rows: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b 77 d"], Float[Tensor, "b p"]]:
        """Return the embeddings of some captions; each caption is encoded only once."""
        if self.kept is None:
            with torch.no_grad():
                parts = [
                    encode(self.pipeline, tokens.to(self.device)) for tokens in self.data.tokens.split(ENCODED_AT_ONCE)
                ]
            embeds, pooled = (torch.cat([part[place].bfloat16() for part in parts]) for place in (0, 1))
            self.kept = embeds, pooled
        index = rows.to(self.device)
        return self.kept[0][index], self.kept[1][index]


def encode(
    pipeline: StableDiffusionXLPipeline, tokens: Int[Tensor, "b n"]
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b p"]]:
    """Return what the text encoders say of captions, as SDXL's pipeline takes it: of every token, and pooled."""
    encoders = pipeline.text_encoder, pipeline.text_encoder_2
    first, second = (encoder(tokens, output_hidden_states=True) for encoder in encoders)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds
