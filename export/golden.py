"""Writing golden tensors: the inputs' recipe, and what PyTorch in fp32 makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from export.graph import Graph, unet_graph
from export.manifest import NOT_RUN, file_entry
from export.tolerance import tolerance
from lorarar.layout import Layout, unpack
from lorarar.lora import write_lora
from lorarar.toolchains import quiet_toolchains
from runtime_py.golden import golden_input, summarise
from runtime_py.noise import normal_noise

if TYPE_CHECKING:
    from export.pipeline import PipelineOptions

# Factors in [-0.5, 0.5) of rank 64 give ΔW a standard deviation near 0.7, so that the hidden units leave their bias and
# the coefficients differ from column to column. A power of two keeps the values exact in fp16.
FACTOR_SCALE = 0.5
# A merged adapter of rank 128 then has ΔW of deviation 0.015, about half of a weight's: seen, and not all that is seen.
ADAPTER_SCALE = 1 / 16
_RECIPES: dict[str, dict[str, Any]] = {
    "content_scale": {"value": 1.0},
    "style_scale": {"value": 0.75},  # unequal, so that exchanging the two is seen
    "sample": {"scale": 2.0},  # of deviation 1.15; a scheduler keeps latents near 1
    "timestep": {"value": 500.0},
    "encoder_hidden_states": {"scale": 1.0},
    "text_embeds": {"scale": 1.0},
    "latents": {"scale": 2.0},
}


# Few steps: errors grow with each, and the reference of a full-size base takes seconds for one.
GOLDEN_PROMPT, GOLDEN_SEED, GOLDEN_STEPS, GOLDEN_GUIDANCE = "a sks dog in watercolor painting style", 1, 3, 4.0


def golden_recipe(graph: Graph) -> dict[str, dict[str, Any]]:
    """The manifest's golden inputs: every generated tensor has its own seed."""
    recipe: dict[str, dict[str, Any]] = {}
    for seed, (name, shape) in enumerate(graph.inputs.items(), start=1):
        sizes = list(graph.fixed(shape))
        found = graph.golden.get(name) or _RECIPES.get(name)
        if found is None:
            found = {"scale": ADAPTER_SCALE if name.startswith("adapter_") else FACTOR_SCALE}
        recipe[name] = {"shape": sizes, **({"seed": seed} if "scale" in found else {}), **found}
    return recipe


def write_golden(reference: nn.Module, recipe: dict[str, dict[str, Any]], path: Path) -> None:
    """Run the reference in PyTorch fp32 on the golden inputs and keep the sampled outputs."""
    dtypes = {name: np.int32 if name == "input_ids" else np.float32 for name in recipe}
    inputs = {name: torch.from_numpy(golden_input(spec, dtypes[name])) for name, spec in recipe.items()}
    with torch.inference_mode(), computing_in_fp32(reference):
        outputs = reference(**inputs)
    tensors = {}
    for name in list(outputs):
        # One output at a time: at SDXL's size all of them are 1 GB.
        for key, value in summarise(outputs.pop(name).numpy()).items():
            tensors[f"{name}.{key}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def write_image(pipeline: Any, layout: Layout, options: PipelineOptions, folder: Path) -> dict[str, Any]:
    """Let diffusers draw the golden image, with the unet's golden adapter as a LoRA; the manifest's entry for it.

    The LoRA goes through a file and PEFT: nothing of the exported graph is in this reference. The pipeline's networks
    are as before when it returns.
    """
    target, path = options.target, folder / "golden" / "pipeline.safetensors"
    recipe = golden_recipe(unet_graph(pipeline.unet, layout, options.rank, options.size, nn.Identity()))
    adapter = {
        name.removeprefix("adapter_"): golden_input(spec)
        for name, spec in recipe.items()
        if name.startswith("adapter_")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("lora.safetensors")
    write_lora(unpack(adapter, layout), temporary)
    latent, channels = options.size.latent, pipeline.unet.config.in_channels
    noise = torch.from_numpy(normal_noise((1, channels, latent, latent), GOLDEN_SEED))
    pipeline.set_progress_bar_config(disable=True)
    with quiet_toolchains():
        pipeline.unet.load_lora_adapter(str(temporary), prefix="unet")
    for name, value in pipeline.unet.named_parameters():
        # PEFT casts a layer's input to its adapter's type, before the hook below could widen that.
        if ".lora_" in name:
            value.data = value.data.float()
    try:
        with quiet_toolchains(), computing_in_fp32(pipeline.unet), torch.inference_mode():
            drawn = pipeline(
                GOLDEN_PROMPT,
                num_inference_steps=GOLDEN_STEPS,
                guidance_scale=GOLDEN_GUIDANCE,
                height=options.size.pixels,
                width=options.size.pixels,
                latents=noise,
                output_type="pt",
            ).images
    finally:
        pipeline.unet.unload_lora()
        temporary.unlink()
    save_file({f"image.{key}": value for key, value in summarise(drawn.float().numpy()).items()}, path)
    return file_entry(folder, path) | {
        "prompt": GOLDEN_PROMPT,
        "seed": GOLDEN_SEED,
        "steps": GOLDEN_STEPS,
        "guidance": GOLDEN_GUIDANCE,
        "tolerance": asdict(tolerance("pipeline", target, options.precision)),
        "parity": NOT_RUN.to_json(),
    }


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
