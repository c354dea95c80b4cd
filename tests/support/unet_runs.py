"""Steps of exported UNets of the shallow base, and of diffusers' own UNet on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_bundles import RANK
from tiny_world import soc_of

from export.graph import ImageSize
from export.options import UNetOptions
from export.targets import find_target
from lorarar.base.sources import open_unet
from lorarar.lora import LoRA
from lorarar.stack import stack
from runtime_py.backends import Runner
from runtime_py.bundle import Bundle
from runtime_py.component import Component
from runtime_py.golden import golden_inputs
from runtime_py.parity import psnr_db
from runtime_py.sinusoids import SIZE_SINUSOIDS, TIMESTEP_SINUSOIDS, sinusoids

SIZE = ImageSize(pixels=32, latent=8, batch=1)
TIME = 500.0
SIZES = (32.0, 32.0, 0.0, 0.0, 32.0, 32.0)
Tensors = dict[str, np.ndarray]


def options(target: str, precision: str, fused: LoRA | None = None) -> UNetOptions:
    return UNetOptions(target, precision, RANK, SIZE, fused, soc=soc_of(target))


def tiny_unet(folder: Path) -> Any:
    return open_unet(str(folder), untrained=False)[0].eval()


def given(bundle: Bundle, lora: LoRA | None) -> Tensors:
    """The golden inputs at TIME with one LoRA as it is, or with the golden one's coefficients zero."""
    component = bundle.component("unet")
    inputs = golden_inputs(component) | at_time(TIME, component)
    for name, tensor in inputs.items():
        if name.startswith("coefficients_"):
            inputs[name] = np.zeros_like(tensor) if lora is None else np.ones_like(tensor)
    if lora is not None:
        stacked = stack([lora], bundle.layout, 2, bundle.stack.rank).inputs
        inputs |= {name: tensor.astype(inputs[name].dtype) for name, tensor in stacked.items()}
    return inputs


def at_time(time: float, component: Component) -> Tensors:
    """What a UNet of batch 1 is told at this time, of an image of SIZES."""
    wanted = {TIMESTEP_SINUSOIDS: ([time], 1), SIZE_SINUSOIDS: (SIZES, len(SIZES))}
    return {
        name: sinusoids(np.float32(values), component.input_width(name) // count)[None]
        for name, (values, count) in wanted.items()
    }


def with_diffusers(unet: Any, inputs: Tensors, times: Sequence[float] = (TIME,)) -> np.ndarray:
    """One step of a diffusers UNet on an artifact's inputs, at these times and of images of SIZES, in fp32."""
    sample, states, pooled = (
        torch.from_numpy(inputs[name].astype(np.float32)) for name in ("sample", "encoder_hidden_states", "text_embeds")
    )
    conditions = {"text_embeds": pooled, "time_ids": torch.tensor([SIZES] * len(sample))}
    with torch.inference_mode():
        return unet(sample, torch.tensor(times), states, added_cond_kwargs=conditions, return_dict=False)[0].numpy()


def run(session: Runner, inputs: Tensors) -> np.ndarray:
    return session.run(inputs)["noise_pred"].astype(np.float32)


def close(have: np.ndarray, want: np.ndarray, target: str, precision: str) -> bool:
    allowed = find_target(target).require("unet", precision)
    error = float(np.abs(have - want).max() / np.abs(want).max())
    return psnr_db(want, have) >= allowed.psnr_db and error <= allowed.max_error
