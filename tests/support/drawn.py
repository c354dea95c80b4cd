"""Images by diffusers' own pipeline of a small base, also with other weights at each step: what is drawn must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_world import dense_delta

from lorarar.base.attach import fused
from lorarar.base.sources import open_pipeline
from lorarar.evaluation.generate import PutOn
from lorarar.layout import UNET
from lorarar.lora import LoRA, LoraLayer
from lorarar.merging.klora import BeforeStep
from lorarar.toolchains import quiet_toolchains
from runtime_py.noise import normal_noise
from runtime_py.pipeline import Request


def drawn_by_diffusers(
    folder: Path,
    lora: Path | None,
    request: Request,
    negative: str | None = None,
    put_on: PutOn | None = None,
) -> np.ndarray:
    """An image by diffusers with a LoRA of its own loading, or with what an evaluated method puts on the UNet."""
    pipeline = open_pipeline(str(folder), False, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(str(lora))
    # diffusers' schedulers use numpy in a way that it warns of
    with quiet_toolchains(), (put_on or no_steps)(pipeline.unet) as to_step:

        def before_next(_: Any, step: int, _timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            to_step(step + 1, request.steps)
            return kwargs

        to_step(0, request.steps)
        return pipeline(
            request.prompt,
            negative_prompt=negative,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            guidance_rescale=request.guidance_rescale,
            latents=torch.from_numpy(normal_noise((1, 4, 8, 8), request.seed)),
            output_type="np",
            callback_on_step_end=before_next,
        ).images[0]


@contextmanager
def no_steps(_unet: torch.nn.Module) -> Iterator[BeforeStep]:
    yield lambda step, steps: None


class _Steps:
    """A stock UNet whose weights a test sets before each run, and whose rows of a batch are run apart.

    LoRAs that have layers of the text encoders change what a row is told, too: its prompt is encoded again.
    """

    def __init__(self, pipeline: Any, request: Request, weights: Callable[[int, int], LoRA | None]) -> None:
        self.pipeline, self.weights, self.step, self.run = pipeline, weights, 0, pipeline.unet.forward
        self.prompts = [request.prompt] if request.guidance == 1 else [request.negative, request.prompt]

    def __call__(self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: Any, **given: Any) -> Any:
        added = given["added_cond_kwargs"]
        rows = []
        for row in range(len(sample)):
            one = {name: value[row : row + 1] for name, value in added.items()}
            states = encoder_hidden_states[row : row + 1]
            lora = self.weights(self.step, row)
            text, unet = _split(lora)
            if text and self.prompts[row] is not None:
                with text_fused(self.pipeline, text):
                    states, _, one["text_embeds"], _ = self.pipeline.encode_prompt(
                        self.prompts[row], do_classifier_free_guidance=False
                    )
            with fused(self.pipeline.unet, unet) if unet.layers else nullcontext():
                rows.append(self.run(sample[row : row + 1], timestep, states, added_cond_kwargs=one)[0])
        self.step += 1
        return (torch.cat(rows),)


def _split(lora: LoRA | None) -> tuple[dict[str, LoraLayer], LoRA]:
    """The layers of text encoders, and the LoRA of the others."""
    layers = lora.layers if lora else {}
    text = {name: layer for name, layer in layers.items() if not name.startswith(UNET)}
    return text, LoRA({name: layer for name, layer in layers.items() if name not in text})


@contextmanager
def text_fused(pipeline: Any, layers: Mapping[str, LoraLayer]) -> Iterator[None]:
    """Add ΔW into the weights of text encoders, in float64, while the block runs."""
    old = {}
    for name, layer in layers.items():
        component, _, module = name.partition(".")
        model = getattr(pipeline, component)
        weight = getattr(model, "text_model", model).get_submodule(module.removeprefix("text_model.")).weight
        old[name] = weight, weight.data
        weight.data = (weight.data.double() + torch.from_numpy(dense_delta(layer))).float()
    try:
        yield
    finally:
        for weight, before in old.values():
            weight.data = before


def drawn_step_by_step(
    folder: Path, request: Request, weights: Callable[[int, int], LoRA | None], monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """An image by diffusers, whose networks have at each step and for each prompt the LoRA that `weights` tells."""
    pipeline = open_pipeline(str(folder), False, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr(pipeline.unet, "forward", _Steps(pipeline, request, weights))
    with quiet_toolchains(), torch.inference_mode():
        return pipeline(
            request.prompt,
            negative_prompt=request.negative,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            guidance_rescale=request.guidance_rescale,
            latents=torch.from_numpy(normal_noise((1, 4, 8, 8), request.seed)),
            output_type="np",
        ).images[0]
