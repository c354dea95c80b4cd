"""Tell what an export will make before it is made: sizes, memory, and what a phone says to them (`--plan`).

Counted on the meta device, from the shapes of every layer; a test compares the sizes with measured exports.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from torch import nn

from export.components.vae import ImageDecoder
from export.options import ADAPTED, LORAS, PIPELINE_BATCH
from export.source import chosen_rank
from export.targets import TARGETS, Target, find_offer
from lorarar.base.names import load_layout, with_text_encoders
from lorarar.base.sources import meta_parts, open_tiny_vae
from lorarar.layout import StackSize, adapter_shapes, coefficient_shapes, fixed

PHONE_BYTES = int(2.8 * 2**30)
"""What an app may use on an iPhone of 6 GB, by those who met the limit; the increased-memory entitlement gives more."""
_TOOLCHAIN_BYTES = 500_000_000  # of a process that has torch and a converter loaded


@dataclass(frozen=True)
class ComponentPlan:
    """One component as it will be."""

    name: str
    precision: str
    parameters: int
    bytes: int
    chunks: int  # of a Core ML pipeline; 1 otherwise


@dataclass(frozen=True)
class Plan:
    """A bundle as it will be."""

    base: str
    target: Target
    precision: str
    components: tuple[ComponentPlan, ...]
    adapter_bytes: int  # of the stacked LoRAs and their coefficients, while an image is drawn

    @property
    def unet(self) -> ComponentPlan:
        """The plan of the UNet."""
        return next(component for component in self.components if component.name == "unet")

    @property
    def export_seconds(self) -> float | None:
        """Seconds that the UNet's export and check take on 2 cores of a server; None where it was not measured."""
        cost = self.target.costs.get(self.precision)
        return cost.seconds_per_million * self.unet.parameters / 1e6 if cost else None

    @property
    def export_bytes(self) -> int | None:
        """The most memory that they take; None where it was not measured."""
        cost = self.target.costs.get(self.precision)
        return round(_TOOLCHAIN_BYTES + cost.peak_bytes_per_weight * self.unet.parameters) if cost else None

    @property
    def running_bytes(self) -> int:
        """Weights that are in memory together: the UNet and its adapter. Activations come on top."""
        return max(self.unet.bytes + self.adapter_bytes, *(component.bytes for component in self.components))


def plan_pipeline(
    base: str,
    *,
    target: str,
    precision: str | None = None,
    soc: str | None = None,
    rank: int | None = None,
    loras: int = LORAS,
    adapt: str = ADAPTED,
    text_adapters: bool = False,
    tiny_vae: str | None = None,
) -> Plan:
    """Plan the export of a base by its name or folder. No weights are read, so a named base needs none.

    The parameters are those of `export.pipeline`. Raises InputError as it does, and for a base in a single file.
    """
    found, precision = find_offer(target, "unet", precision, soc=soc)
    layout, networks = load_layout(base, adapt), meta_parts(base)
    if text_adapters:
        layout = with_text_encoders(layout, networks)
    stack = StackSize(loras, loras * chosen_rank(base, rank, loras))
    if tiny_vae is not None:
        scale = 2 ** (len(networks["vae"].config.block_out_channels) - 1)
        networks["vae"] = open_tiny_vae(tiny_vae, scale, networks["unet"].config.in_channels)
    # Of the VAE, only what decodes is exported.
    exported = {name: networks[name] for name in ("text_encoder", "text_encoder_2", "unet")}
    exported["vae_decoder"] = ImageDecoder(networks["vae"])
    components = tuple(
        _plan_component(found, name, found.precision_of(name, precision), network) for name, network in exported.items()
    )
    shapes = adapter_shapes(layout.groups) | coefficient_shapes(layout.groups, loras, PIPELINE_BATCH)
    numbers = sum(math.prod(fixed(shape, stack.named)) for shape in shapes.values())
    adapter_bytes = numbers * np.dtype(found.io_dtype(precision)).itemsize
    return Plan(layout.base, found, precision, components, adapter_bytes)


def _plan_component(target: Target, name: str, precision: str, network: nn.Module) -> ComponentPlan:
    counts, each = _count_weights(network), target.bytes_per_weight[precision]
    size = round(sum(count * getattr(each, kind) for kind, count in counts.items()))
    chunks = max(1, math.ceil(size / target.chunk_bytes)) if target.chunk_bytes else 1
    return ComponentPlan(name, precision, sum(counts.values()), size, chunks)


def advice(planned: Plan) -> list[str]:
    """Say what a phone will do with the plan, a sentence each, and what to do about it."""
    said = [
        f"{component.name}: over the 1 GB that the Neural Engine takes as one model, so it becomes a pipeline of "
        f"{component.chunks} chunks in one package; an app loads it like any other"
        for component in planned.components
        if component.chunks > 1
    ]
    need = f"{planned.running_bytes / 1e9:.1f} GB of weights and adapter are in memory while an image is drawn"
    if planned.running_bytes <= PHONE_BYTES:
        return [*said, f"{need}; an app on a phone of 6 GB may use about {PHONE_BYTES / 1e9:.1f}"]
    target = planned.target
    smaller = [name for name in target.precisions if name.startswith("w") and name != planned.precision]
    least = smaller[-1] if smaller else planned.precision
    fits = planned.unet.parameters * target.bytes_per_weight[least].linear <= PHONE_BYTES
    do = f"choose the precision {' or '.join(smaller)}" if fits and smaller else "choose a smaller base"
    return [*said, f"{need}, over the {PHONE_BYTES / 1e9:.1f} that an app may use on a phone of 6 GB: {do}"]


def effort(planned: Plan) -> str:
    """Say how long the export will take, and how much memory."""
    if planned.export_seconds is None or planned.export_bytes is None:
        known = ", ".join(f"{name} {precision}" for name, target in TARGETS.items() for precision in target.costs)
        return f"how long it takes, and how much memory, was not measured in this precision; it was for {known}"
    minutes = planned.export_seconds / 60
    return (
        f"the UNet's export with its check: about {minutes:.1f} minutes on 2 cores of a server, and at most "
        f"{planned.export_bytes / 1e9:.1f} GB of memory"
    )


def _count_weights(network: nn.Module) -> Counter[str]:
    """Count the numbers that layers of each kind of WeightBytes hold; biases and norms are `other`."""
    counts: Counter[str] = Counter()
    for layer in network.modules():
        kind = "linear" if isinstance(layer, nn.Linear) else "conv" if isinstance(layer, nn.Conv2d) else "other"
        for name, value in layer.named_parameters(recurse=False):
            counts[kind if name == "weight" else "other"] += value.numel()
    return counts
