"""Images by diffusers' own pipeline of a small base, also with other weights at each step: what is drawn must equal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorarar.base.attach import fused
from lorarar.base.sources import open_pipeline
from lorarar.lora import LoRA
from lorarar.toolchains import quiet_toolchains
from runtime_py.noise import normal_noise
from runtime_py.pipeline import Request


def drawn_by_diffusers(folder: Path, lora: Path | None, request: Request, negative: str | None = None) -> np.ndarray:
    pipeline = open_pipeline(str(folder), False, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora))
    with quiet_toolchains():  # diffusers' schedulers use numpy in a way that it warns of
        return pipeline(
            request.prompt,
            negative_prompt=negative,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            latents=torch.from_numpy(normal_noise((1, 4, 8, 8), request.seed)),
            output_type="np",
        ).images[0]


class _Steps:
    """A stock UNet whose weights a test sets before each run, and whose rows of a batch are run apart."""

    def __init__(self, unet: Any, weights: Callable[[int, int], LoRA | None]) -> None:
        self.unet, self.weights, self.step, self.run = unet, weights, 0, unet.forward

    def __call__(self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: Any, **given: Any) -> Any:
        added = given["added_cond_kwargs"]
        rows = []
        for row in range(len(sample)):
            one = {name: value[row : row + 1] for name, value in added.items()}
            states = encoder_hidden_states[row : row + 1]
            lora = self.weights(self.step, row)
            with fused(self.unet, lora) if lora else nullcontext():
                rows.append(self.run(sample[row : row + 1], timestep, states, added_cond_kwargs=one)[0])
        self.step += 1
        return (torch.cat(rows),)


def drawn_step_by_step(
    folder: Path, request: Request, weights: Callable[[int, int], LoRA | None], monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """An image by diffusers, whose UNet has at each step and for each prompt the LoRA that `weights` tells."""
    pipeline = open_pipeline(str(folder), False, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline.unet, "forward", _Steps(pipeline.unet, weights))
    with quiet_toolchains(), torch.inference_mode():
        return pipeline(
            request.prompt,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            latents=torch.from_numpy(normal_noise((1, 4, 8, 8), request.seed)),
            output_type="np",
        ).images[0]
