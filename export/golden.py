"""Writing golden tensors: the inputs' recipe, and what PyTorch in fp32 makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file
from torch import nn

from export.graph import Graph
from runtime_py.golden import golden_input, summarise

# Factors in [-0.5, 0.5) of rank 64 give ΔW a standard deviation near 0.7, so that the hidden units leave their bias and
# the coefficients differ from column to column. A power of two keeps the values exact in fp16.
FACTOR_SCALE = 0.5
SCALE_VALUES = {"content_scale": 1.0, "style_scale": 0.75}  # unequal, so that exchanging the two is seen


def golden_recipe(graph: Graph) -> dict[str, dict[str, Any]]:
    """The manifest's golden inputs: every tensor has its own seed."""
    recipe: dict[str, dict[str, Any]] = {}
    for seed, (name, shape) in enumerate(graph.inputs.items(), start=1):
        sizes = list(graph.fixed(shape))
        if name in SCALE_VALUES:
            recipe[name] = {"shape": sizes, "value": SCALE_VALUES[name]}
        else:
            recipe[name] = {"shape": sizes, "seed": seed, "scale": FACTOR_SCALE}
    return recipe


def write_golden(reference: nn.Module, recipe: dict[str, dict[str, Any]], path: Path) -> None:
    """Run the reference in PyTorch fp32 on the golden inputs and keep the sampled outputs."""
    inputs = {name: torch.from_numpy(golden_input(spec)) for name, spec in recipe.items()}
    with torch.inference_mode():
        outputs = reference(**inputs)
    tensors = {}
    for name in list(outputs):
        # One output at a time: at SDXL's size all of them are 1 GB.
        for key, value in summarise(outputs.pop(name).numpy()).items():
            tensors[f"{name}.{key}"] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
