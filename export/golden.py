"""Write golden tensors: the recipe of the inputs, and what PyTorch in fp32 makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import save_file
from torch import nn

from export.components.unet import unet_graph
from export.graph import Graph, ImageSize
from lorarar.layout import Layout, unpack
from lorarar.lora import LoRA
from lorarar.toolchains import quiet_toolchains
from runtime_py.golden import golden_input, summarise
from runtime_py.noise import normal_noise

# Factors in [-0.5, 0.5) of rank 64 give ΔW a standard deviation near 0.7, so that the hidden units leave their bias and
# the coefficients differ from column to column. A power of two keeps the values exact in fp16.
FACTOR_SCALE = 0.5
# A merged adapter of rank 128 then has ΔW of deviation 0.015, about half of that of a weight: large enough that an
# adapter that is left out is noticed, and small enough that the rest of the UNet still shows in the output.
ADAPTER_SCALE = 1 / 16
_RECIPES: dict[str, dict[str, Any]] = {
    "content_scale": {"value": 1.0},
    "style_scale": {"value": 0.75},  # unequal, so that exchanging the two is noticed
    "sample": {"scale": 2.0},  # a deviation of 1.15; a scheduler keeps latents near 1
    "timestep": {"value": 500.0},
    "encoder_hidden_states": {"scale": 1.0},
    "text_embeds": {"scale": 1.0},
    "latents": {"scale": 2.0},
}


# Few steps: errors grow with each, and the reference of a full-size base takes seconds for one.
GOLDEN_IMAGE: dict[str, Any] = {
    "prompt": "a sks dog in watercolor painting style",
    "seed": 1,
    "steps": 3,
    "guidance": 4.0,
}


def golden_recipe(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return the manifest's golden inputs of a graph: every generated tensor has a seed of its own."""
    recipe: dict[str, dict[str, Any]] = {}
    for seed, (name, shape) in enumerate(graph.inputs.items(), start=1):
        sizes = list(graph.fixed(shape))
        usual = {"scale": ADAPTER_SCALE if name.startswith("adapter_") else FACTOR_SCALE}
        found = graph.golden.get(name) or _RECIPES.get(name, usual)
        recipe[name] = {"shape": sizes, **({"seed": seed} if "scale" in found else {}), **found}
    return recipe


def write_golden(reference: nn.Module, recipe: dict[str, dict[str, Any]], path: Path) -> None:
    """Run the reference in PyTorch fp32 on the golden inputs and write samples of its outputs to `path`."""
    dtypes = {name: np.int32 if name == "input_ids" else np.float32 for name in recipe}
    inputs = {name: torch.from_numpy(golden_input(spec, dtypes[name])) for name, spec in recipe.items()}
    with torch.inference_mode(), computing_in_fp32(reference):
        outputs = reference(**inputs)
    tensors: dict[str, np.ndarray] = {}
    for name in list(outputs):
        # One output at a time, since all of SDXL's are 1 GB.
        tensors |= {f"{name}.{key}": value for key, value in summarise(outputs.pop(name).numpy()).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def write_golden_image(pipeline: Any, layout: Layout, rank: int, size: ImageSize, path: Path) -> dict[str, Any]:
    """Let diffusers draw the golden image into `path`, and return what it was told: prompt, seed, steps and guidance.

    The UNet has its golden adapter as a LoRA, which goes through diffusers and PEFT: nothing of the exported graph is
    in this reference. `rank` is that of one LoRA. The pipeline's networks are as before when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_toolchains(), _with_lora(pipeline.unet, _golden_lora(pipeline.unet, layout, rank, size)):
        drawn = _draw(pipeline, size)
    save_file({f"image.{key}": value for key, value in summarise(drawn).items()}, path)
    return GOLDEN_IMAGE


def _golden_lora(unet: Any, layout: Layout, rank: int, size: ImageSize) -> LoRA:
    """Return the golden adapter of the UNet's graph as a LoRA."""
    recipe = golden_recipe(unet_graph(unet, layout, rank, size, nn.Identity()))
    adapter = {
        name.removeprefix("adapter_"): golden_input(spec)
        for name, spec in recipe.items()
        if name.startswith("adapter_")
    }
    return unpack(adapter, layout)


@contextmanager
def _with_lora(unet: Any, lora: LoRA) -> Iterator[None]:
    """Put a LoRA on a diffusers UNet, through PEFT, while the block runs."""
    unet.load_lora_adapter(lora.to_state_dict(), prefix="unet")
    for name, value in unet.named_parameters():
        # PEFT casts a layer's input to its adapter's type, before computing_in_fp32 could widen that.
        if ".lora_" in name:
            value.data = value.data.float()
    try:
        yield
    finally:
        unet.unload_lora()


def _draw(pipeline: Any, size: ImageSize) -> Float[np.ndarray, "1 3 h w"]:
    noise = normal_noise((1, pipeline.unet.config.in_channels, size.latent, size.latent), GOLDEN_IMAGE["seed"])
    pipeline.set_progress_bar_config(disable=True)
    with computing_in_fp32(pipeline.unet), torch.inference_mode():
        drawn = pipeline(
            GOLDEN_IMAGE["prompt"],
            num_inference_steps=GOLDEN_IMAGE["steps"],
            guidance_scale=GOLDEN_IMAGE["guidance"],
            height=size.pixels,
            width=size.pixels,
            latents=torch.from_numpy(noise),
            output_type="pt",
        ).images
    return drawn.float().numpy()


@contextmanager
def computing_in_fp32(module: nn.Module) -> Iterator[None]:
    """Widen weights of half precision to fp32 while their layer runs, one layer at a time.

    SDXL's UNet is 5 GB in fp16, and with this no more for an fp32 reference of the same weights.
    """
    narrow: dict[nn.Module, dict[str, torch.Tensor]] = {}
    for layer in module.modules():
        own = {name: value.data for name, value in layer.named_parameters(recurse=False)}
        if any(value.is_floating_point() and value.dtype != torch.float32 for value in own.values()):
            narrow[layer] = own

    def widen(layer: nn.Module, _: object) -> None:
        for name, value in narrow[layer].items():
            getattr(layer, name).data = value.float()

    def restore(layer: nn.Module, _: object, __: object) -> None:
        for name, value in narrow[layer].items():
            getattr(layer, name).data = value

    handles = [layer.register_forward_pre_hook(widen) for layer in narrow]
    handles += [layer.register_forward_hook(restore, always_call=True) for layer in narrow]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
