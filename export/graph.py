"""A graph is what a target converts: a module whose inputs and outputs have names, shapes and types."""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from lorarar.layout import Shape, StackSize, fixed
from lorarar.settings import use_plain_numbers


@dataclass(frozen=True)
class ImageSize:
    """The images that a UNet and a decoder are exported for."""

    pixels: int  # of a side
    latent: int  # latent pixels of a side
    batch: int  # 2 runs the prompt and the empty one of classifier-free guidance together

    def __post_init__(self) -> None:
        use_plain_numbers(self)


def golden_roles(stack: StackSize) -> dict[str, Any]:
    """Return the golden roles: the LoRAs' rows take turns, and the last row is padding, as no real stack has them."""
    rows = [[float(row % stack.loras == number) for number in range(stack.loras)] for row in range(stack.rank)]
    if len(rows) > stack.loras:
        rows[-1] = [0.0] * stack.loras
    return {"values": [value for row in rows for value in row]}


@dataclass(frozen=True)
class Graph:
    """A module whose forward takes these inputs as keywords and returns a dict of these outputs, in this order."""

    name: str  # of the component, in manifests and file names
    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    sizes: Mapping[str, int]  # the value of every named size, for targets whose shapes are fixed
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)  # of inputs that have one type in every precision
    golden: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # golden inputs with a recipe of their own
    owned: bool = False  # whether the module may be changed and emptied: a copy of SDXL's UNet is 10 GB
    reference: nn.Module | None = None  # what computes the golden outputs, where that is not the module itself

    def fixed(self, shape: Shape) -> tuple[int, ...]:
        """Return the shape with the names of sizes replaced by numbers."""
        return fixed(shape, self.sizes)

    def taken(self) -> Graph:
        """Return a graph whose module may be changed: this one if it is owned, else one with a copy of the module."""
        return self if self.owned else replace(self, module=copy.deepcopy(self.module), owned=True)

    def give_back(self) -> None:
        """Free the weights of an owned module, and collect the cycles full of graphs that exporters leave.

        The weights are dropped, whatever tensors they are; `module.to("meta")` can't move quantised ones.
        """
        if not self.owned:
            return
        for layer in self.module.modules():
            for name, value in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(torch.empty(value.shape, device="meta"), requires_grad=False))
        gc.collect()
