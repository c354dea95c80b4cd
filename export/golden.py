"""Write golden tensors: the recipe of the inputs, and what PyTorch in fp32 makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.numpy import save
from torch import nn

from export.components.text_encoders import text_graph
from export.components.unet import unet_graph
from export.components.vae import ImageReference
from export.graph import Graph, ImageSize
from lorarar.layout import ADAPTER, COEFFICIENTS, ROLES, Layout, StackSize
from lorarar.lora import LoRA
from lorarar.stack import fold
from lorarar.toolchains import quiet_toolchains, without_progress_bars
from runtime_py.golden import WITHOUT, golden_input, sample, summarise
from runtime_py.noise import normal_noise
from runtime_py.sinusoids import SIZE_SINUSOIDS, TIMESTEP_SINUSOIDS
from runtime_py.tiles import decode_in_tiles

# Factors in [-0.5, 0.5) of rank 64 give ΔW a standard deviation near 0.7, so that the hidden units leave their bias and
# the coefficients differ from column to column. A power of two keeps the values exact in fp16.
FACTOR_SCALE = 0.5
# Of the stack of a UNet or a text encoder: ΔW then has half of a weight's usual deviation, 1/√in, whatever the rank. It
# is large enough that a LoRA that is left out, or half of its effect, is noticed, and small enough that the network
# still shows in the output.
ADAPTER_SHARE = 0.5
_RECIPES: dict[str, dict[str, Any]] = {
    "sample": {"scale": 2.0},  # a deviation of 1.15; a scheduler keeps latents near 1
    TIMESTEP_SINUSOIDS: {"scale": 1.0},
    SIZE_SINUSOIDS: {"scale": 1.0},
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
    "guidance_rescale": 0.7,
}


def golden_recipe(graph: Graph) -> dict[str, dict[str, Any]]:
    """Return the manifest's golden inputs of a graph: every generated tensor has a seed of its own."""
    recipe: dict[str, dict[str, Any]] = {}
    for seed, (name, shape) in enumerate(graph.inputs.items(), start=1):
        sizes = list(graph.fixed(shape))
        usual = {"scale": _usual_scale(graph, name)}
        found = graph.golden.get(name) or _RECIPES.get(name, usual)
        recipe[name] = {"shape": sizes, **({"seed": seed} if "scale" in found else {}), **found}
    return recipe


def _usual_scale(graph: Graph, name: str) -> float:
    """Return the scale of an input that has no recipe of its own: a coefficient or a factor."""
    if name.startswith(COEFFICIENTS):
        return 1.0
    if graph.name == "hypernet" or not name.startswith(ADAPTER):
        return FACTOR_SCALE
    _, rank, inp = graph.fixed(graph.inputs[f"{name.rpartition('_')[0]}_down"])
    # Numbers in [-s, s) have the variance s²/3: a factor twice, summed over the rank, and a coefficient.
    wanted = math.sqrt(ADAPTER_SHARE * 3 / math.sqrt(inp * rank / 3))
    return 2.0 ** math.floor(math.log2(wanted))


def write_golden(reference: nn.Module, recipe: dict[str, dict[str, Any]], path: Path) -> None:
    """Run the reference in PyTorch fp32 on the golden inputs and write samples of its outputs to `path`.

    Where the inputs have coefficients, it is run a second time with coefficients of zero: what the LoRAs change is held
    to a bound of its own.
    """
    dtypes = {name: np.int32 if name == "input_ids" else np.float32 for name in recipe}
    inputs = {name: torch.from_numpy(golden_input(spec, dtypes[name])) for name, spec in recipe.items()}
    tensors: dict[str, np.ndarray] = {}
    with torch.inference_mode(), computing_in_fp32(reference):
        outputs = reference(**inputs)
        off = {name: torch.zeros_like(inputs[name]) for name in inputs if name.startswith(COEFFICIENTS)}
        without = reference(**inputs | off) if off else {}
        tensors |= {f"{name}.{WITHOUT}": sample(value.numpy()) for name, value in without.items()}
    for name in list(outputs):
        # One output at a time, since all of SDXL's are 1 GB.
        tensors |= {f"{name}.{key}": value for key, value in summarise(outputs.pop(name).numpy()).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors))


def write_golden_image(
    pipeline: Any, layout: Layout, stack: StackSize, size: ImageSize, path: Path, tile: int
) -> dict[str, Any]:
    """Let diffusers draw the golden image into `path`, and return what it was told, such as the prompt.

    It is decoded in tiles of that many latents, as a runtime does it that has a decoder for no more.

    The networks have their golden stacks as a LoRA, with the coefficients of the first image, which goes through
    diffusers and PEFT: nothing of the exported graphs is in this reference. The pipeline's networks are as before when
    this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_toolchains(), without_progress_bars(), _with_lora(pipeline, _golden_lora(pipeline, layout, stack, size)):
        drawn = _draw(pipeline, size, tile)
    path.write_bytes(save({f"image.{key}": value for key, value in summarise(drawn).items()}))
    return GOLDEN_IMAGE


def golden_tokens(tokenizer: Any) -> list[int]:
    """Return the golden image's prompt as a tokenizer of transformers pads it."""
    length = tokenizer.model_max_length
    return list(tokenizer(GOLDEN_IMAGE["prompt"], padding="max_length", max_length=length, truncation=True).input_ids)


def tokenizers(pipeline: Any) -> dict[str, Any]:
    """Return a pipeline's tokenizers by the names of their text encoders, in the order of the hidden states."""
    return {"text_encoder": pipeline.tokenizer, "text_encoder_2": pipeline.tokenizer_2}


def _golden_lora(pipeline: Any, layout: Layout, stack: StackSize, size: ImageSize) -> LoRA:
    """Return the golden stacks of the networks' graphs, with the first image's coefficients, as a LoRA."""
    unread = nn.Identity()
    graphs = [unet_graph(pipeline.unet, layout, stack, size, module=unread)]
    for name, tokenizer in tokenizers(pipeline).items():
        tokens = golden_tokens(tokenizer)
        graphs.append(text_graph(name, getattr(pipeline, name), tokens, layout, stack, module=unread))
    recipe = {name: spec for graph in graphs for name, spec in golden_recipe(graph).items()}
    names = {name for group in layout.groups for name in (group.down, group.up, group.coefficients)} | {ROLES}
    given = {name: golden_input(recipe[name]) for name in names}
    first = {group.coefficients: given[group.coefficients][0] for group in layout.groups}
    return fold(given, given[ROLES], first, layout)


@contextmanager
def _with_lora(pipeline: Any, lora: LoRA) -> Iterator[None]:
    """Put a LoRA on a pipeline of diffusers, through PEFT, while the block runs."""
    factors = lora.to_state_dict()
    pipeline.load_lora_weights(dict(factors))
    for name, value in pipeline.unet.named_parameters():
        # They were rounded to the UNet's type, to which PEFT casts a layer's input before computing_in_fp32 widens it.
        if ".lora_" in name:
            module, _, factor = name.partition(".lora_")
            value.data = factors[f"unet.{module}.lora_{factor[0]}.weight"].clone()
    try:
        yield
    finally:
        pipeline.unload_lora_weights()


def _draw(pipeline: Any, size: ImageSize, tile: int) -> Float[np.ndarray, "1 3 h w"]:
    noise = normal_noise((1, pipeline.unet.config.in_channels, size.latent, size.latent), GOLDEN_IMAGE["seed"])
    pipeline.set_progress_bar_config(disable=True)
    with computing_in_fp32(pipeline.unet), torch.inference_mode():
        drawn = pipeline(
            GOLDEN_IMAGE["prompt"],
            num_inference_steps=GOLDEN_IMAGE["steps"],
            guidance_scale=GOLDEN_IMAGE["guidance"],
            guidance_rescale=GOLDEN_IMAGE["guidance_rescale"],
            height=size.pixels,
            width=size.pixels,
            latents=torch.from_numpy(noise),
            output_type="latent",
        ).images
        decoder = ImageReference(pipeline.vae)
        return decode_in_tiles(
            lambda part: decoder(torch.from_numpy(part.copy()))["image"].numpy(), drawn.float().numpy(), tile
        )


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
