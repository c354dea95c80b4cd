"""What an export will make, before it is made: sizes, memory, and what a phone will say to them (`--plan`).

Counted on the meta device, from the shapes of every layer; a test compares the sizes with measured exports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from export.manifest import io_dtype
from export.parts import ImageDecoder
from export.targets import NEURAL_ENGINE_BYTES
from export.tolerance import part_precision
from lorarar.layout import Layout, adapter_shapes, fixed, rank_sizes
from runtime_py.precisions import UNET_PRECISIONS

PHONE_BYTES = int(2.8 * 2**30)
"""What an app may use on an iPhone of 6 GB, by those who met the limit; the increased-memory entitlement gives more."""

# Bytes a weight by the kind of layer; scales are counted with the weights that share them.
_FLOATS = {"fp32": 4.0, "fp16": 2.0}
_FEW_BITS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("onnx", "w8"): {"linear": 1 + 4 / 32, "conv": 1.0, "other": 4.0},
    ("onnx", "w4"): {"linear": 0.5 + 4 / 32, "conv": 1.0, "other": 4.0},
    ("coreml", "w8"): {"linear": 1.0, "conv": 1.0, "other": 1.0},
    ("coreml", "w6"): {"linear": 0.75, "conv": 0.75, "other": 0.75},
    ("coreml", "w4"): {"linear": 0.5, "conv": 0.75, "other": 0.5},
    ("executorch", "w8"): {"linear": 1.0, "conv": 4.0, "other": 4.0},
    ("executorch", "w4"): {"linear": 0.5 + 4 / 32, "conv": 4.0, "other": 4.0},
}


# What exporting and checking a UNet takes: seconds for a million weights and peak bytes for a weight, as they are in
# docs/full-size.md (a test compares).
_COSTS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("onnx", "fp32"): (0.10, 5.4),
    ("onnx", "fp16"): (0.07, 3.0),
    ("coreml", "fp16"): (0.13, 5.1),
    ("executorch", "fp32"): (0.21, 13.7),
    ("executorch", "w8"): (0.30, 7.1),
}
_TOOLCHAIN_BYTES = 500_000_000  # of a process that has torch and a converter loaded


@dataclass(frozen=True)
class PartPlan:
    """One component as it will be."""

    name: str
    precision: str
    parameters: int
    bytes: int

    @property
    def chunks(self) -> int:
        """Of a Core ML pipeline."""
        return max(1, math.ceil(self.bytes / NEURAL_ENGINE_BYTES))


@dataclass(frozen=True)
class Plan:
    """A bundle as it will be."""

    base: str
    target: str
    precision: str
    parts: tuple[PartPlan, ...]
    adapter_bytes: int  # of one merged adapter, while an image is drawn

    @property
    def unet(self) -> PartPlan:
        return next(part for part in self.parts if part.name == "unet")

    @property
    def export_seconds(self) -> float | None:
        """Of the UNet with its check, on 2 cores of a server; None in a precision that was not measured."""
        cost = _COSTS.get((self.target, self.precision))
        return cost[0] * self.unet.parameters / 1e6 if cost else None

    @property
    def export_bytes(self) -> int | None:
        """The most memory that it takes; None in a precision that was not measured."""
        cost = _COSTS.get((self.target, self.precision))
        return round(_TOOLCHAIN_BYTES + cost[1] * self.unet.parameters) if cost else None

    @property
    def running_bytes(self) -> int:
        """Weights that are in memory together: the UNet and its adapter. Activations come on top."""
        return max(self.unet.bytes + self.adapter_bytes, *(part.bytes for part in self.parts))


def plan(base: str, target: str, precision: str, layout: Layout, rank: int, parts: Mapping[str, Any]) -> Plan:
    """`parts` are the base's networks by name (`lorarar.base.sources.meta_parts`); weights are not looked at."""
    found = []
    # Of the VAE, only what decodes is exported.
    networks = {name: parts[name] for name in ("text_encoder", "text_encoder_2", "unet")}
    for name, network in (networks | {"vae_decoder": ImageDecoder(parts["vae"])}).items():
        used = part_precision(name, precision)
        counts = _weights(network)
        size = sum(count * bytes_a_weight(target, used, kind) for kind, count in counts.items())
        found.append(PartPlan(name, used, sum(counts.values()), round(size)))
    shapes, sizes = adapter_shapes(layout).values(), rank_sizes(rank)
    numbers = sum(math.prod(fixed(shape, sizes)) for shape in shapes)
    return Plan(base, target, precision, tuple(found), numbers * np.dtype(io_dtype(target, precision)).itemsize)


def bytes_a_weight(target: str, precision: str, kind: str) -> float:
    """Of a weight of a `linear`, a `conv` or an `other` layer."""
    return _FLOATS[precision] if precision in _FLOATS else _FEW_BITS[target, precision][kind]


def advice(planned: Plan) -> list[str]:
    """What a phone will say to the plan, a sentence each, and what to do about it."""
    said = []
    for part in planned.parts:
        if planned.target == "coreml" and part.chunks > 1:
            said.append(
                f"{part.name}: over the 1 GB that the Neural Engine takes as one model, so it becomes a pipeline of "
                f"{part.chunks} chunks in one package; an app loads it like any other"
            )
    need = f"{planned.running_bytes / 1e9:.1f} GB of weights and adapter are in memory while an image is drawn"
    if planned.running_bytes <= PHONE_BYTES:
        return [*said, f"{need}; an app on a phone of 6 GB may use about {PHONE_BYTES / 1e9:.1f}"]
    smaller = [name for name in UNET_PRECISIONS[planned.target] if name.startswith("w") and name != planned.precision]
    least = smaller[-1:] or [planned.precision]
    fits = planned.unet.parameters * bytes_a_weight(planned.target, least[0], "linear") <= PHONE_BYTES
    do = f"give --precision {' or '.join(smaller)}" if fits and smaller else "give a smaller --base"
    return [*said, f"{need}, over the {PHONE_BYTES / 1e9:.1f} that an app may use on a phone of 6 GB: {do}"]


def print_plan(planned: Plan) -> None:
    """The table and the advice."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{planned.base} · {planned.target} · {planned.precision}: nothing is made yet")
    for column in ("component", "precision", "parameters", "size"):
        table.add_column(column, justify="left" if column in ("component", "precision") else "right")
    for part in planned.parts:
        table.add_row(part.name, part.precision, f"{part.parameters / 1e6:.2f} M", f"{part.bytes / 1e6:.1f} MB")
    total = sum(part.bytes for part in planned.parts)
    table.add_row("bundle", "", "", f"{total / 1e6:.1f} MB", style="bold")
    console = Console()
    console.print(table)
    console.print(_effort(planned), highlight=False)
    for sentence in advice(planned):
        console.print(sentence, highlight=False)


def _effort(planned: Plan) -> str:
    """How long the export will take, and how much memory."""
    if planned.export_seconds is None or planned.export_bytes is None:
        known = ", ".join(f"{target} {precision}" for target, precision in _COSTS)
        return f"how long it takes, and how much memory, was not measured in this precision; it was for {known}"
    minutes = planned.export_seconds / 60
    return (
        f"the UNet's export with its check: about {minutes:.1f} minutes on 2 cores of a server, and at most "
        f"{planned.export_bytes / 1e9:.1f} GB of memory"
    )


def _weights(network: nn.Module) -> Counter[str]:
    """How many numbers the layers of each kind hold; biases and norms are `other`."""
    counts: Counter[str] = Counter()
    for layer in network.modules():
        kind = "linear" if isinstance(layer, nn.Linear) else "conv" if isinstance(layer, nn.Conv2d) else "other"
        for name, value in layer.named_parameters(recurse=False):
            counts[kind if name == "weight" else "other"] += value.numel()
    return counts
