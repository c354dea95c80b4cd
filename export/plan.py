"""Tell what an export will make before it is made: sizes, memory, and whether a phone has it (`--plan`).

Counted on the meta device, from the shapes of every layer and of every result in a forward pass; a test compares the
sizes with measured exports.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import nn

from export.components.text_encoders import text_graph
from export.components.unet import unet_graph
from export.components.vae import vae_graph
from export.graph import Graph, ImageSize
from export.live_memory import live_bytes
from export.options import ADAPTED, LORAS, PIPELINE_BATCH, decoded_size, require_batch, require_pixels
from export.rewrites import rewrite_for
from export.source import chosen_rank
from export.targets import TARGETS, Target, find_offer
from export.tolerance import TEXT_ENCODERS
from lorarar.base.names import name_of, unet_layout, with_text_encoders
from lorarar.base.sources import image_side, latent_scale, meta_parts, open_tiny_vae, require_latents
from lorarar.layout import ADAPTER, COEFFICIENTS, Layout, StackSize

SIDES = (1024, 768, 512)
"""Sides of images that SDXL draws, to advise where memory is short."""
PHONE_BYTES = int(2.8 * 2**30)
"""What an app may use on an iPhone of 6 GB, by those who met the limit; the increased-memory entitlement gives more."""
_TOOLCHAIN_BYTES = 500_000_000  # of a process that has torch and a converter loaded


@dataclass(frozen=True)
class ComponentPlan:
    """One component as it will be."""

    name: str
    precision: str
    parameters: int
    sizes: Mapping[str, int]  # bytes of its weights, by the UNet's precision
    bytes: int  # of its weights as planned
    chunks: int  # of a Core ML pipeline, by its weights; 1 otherwise
    count_live: Callable[[], int]  # takes seconds for a large network
    adapter_bytes: int  # stacked LoRAs and coefficients that it takes

    @cached_property
    def live_bytes(self) -> int:
        """Results that are in memory together while the component runs."""
        return self.count_live()

    @property
    def running_bytes(self) -> int:
        """What is in memory while the component runs. What a runtime's kernels use beside it comes on top."""
        return self.bytes + self.adapter_bytes + self.live_bytes


@dataclass(frozen=True)
class Plan:
    """A bundle as it will be."""

    base: str
    target: Target
    precision: str
    pixels: int  # of an image's side
    components: tuple[ComponentPlan, ...]

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
    def largest(self) -> ComponentPlan:
        """The component that takes the most memory while it runs, alone."""
        return max(self.components, key=lambda component: component.running_bytes)


def plan_pipeline(
    base: str,
    *,
    target: str,
    precision: str | None = None,
    soc: str | None = None,
    rank: int | None = None,
    loras: int = LORAS,
    adapt: str = ADAPTED,
    resolution: int | None = None,
    batch: int = PIPELINE_BATCH,
    text_adapters: bool = False,
    tiny_vae: str | None = None,
    vae_precision: str | None = None,
    vae_tile: int | None = None,
) -> Plan:
    """Plan the export of a base by its name, folder or hub id. No weights are read, so a named base needs none.

    The parameters are those of `export.pipeline`. Raises InputError as it does, and for a base in a single file.
    """
    require_batch(batch)
    found, precision = find_offer(target, "unet", precision, soc, vae_precision)
    networks = meta_parts(base)
    layout = unet_layout(networks["unet"], name_of(base), adapt)
    if text_adapters:
        layout = with_text_encoders(layout, networks)
    stack = found.stack(chosen_rank(base, rank, loras), loras)
    scale = latent_scale(networks["vae"])
    if tiny_vae is not None:
        networks["vae"] = open_tiny_vae(tiny_vae)
        require_latents(networks["vae"], scale, networks["unet"].config.in_channels)
    pixels = image_side(networks["unet"], scale, resolution)
    require_pixels(pixels)
    size = ImageSize(pixels, pixels // scale, batch)
    graphs = _graphs(found, networks, layout, stack, size, decoded_size(size, vae_tile))
    components = tuple(_plan_component(found, graph, precision, vae_precision) for graph in graphs)
    return Plan(layout.base, found, precision, pixels, components)


def _graphs(
    target: Target,
    networks: Mapping[str, Any],
    layout: Layout,
    stack: StackSize,
    size: ImageSize,
    decoded: ImageSize,
) -> Iterator[Graph]:
    """Yield the graphs of a pipeline but for its hypernetwork, each in the target's form."""
    for name in TEXT_ENCODERS:
        tokens = [0] * networks[name].config.max_position_embeddings
        yield text_graph(name, networks[name], tokens, layout, stack, target.adapter_form, owned=True)
    for name, graph in (
        ("unet", unet_graph(networks["unet"], layout, stack, size, target.adapter_form)),
        ("vae", vae_graph(networks["vae"], decoded, owned=True)),
    ):
        rewrite_for(target, networks[name])
        yield graph


def _plan_component(target: Target, graph: Graph, unet_precision: str, vae_precision: str | None) -> ComponentPlan:
    counts = _count_weights(graph.module)

    def size_in(precision: str) -> int:
        each = target.bytes_per_weight[precision]
        return round(sum(count * getattr(each, kind) for kind, count in counts.items()))

    by_unet = {name: target.precision_of(graph.name, name, vae_precision) for name in target.precisions}
    sizes, precision = {name: size_in(of) for name, of in by_unet.items()}, by_unet[unet_precision]
    size = sizes[unet_precision]
    chunks = max(1, math.ceil(size / target.chunk_bytes)) if target.chunk_bytes else 1
    itemsize = np.dtype(target.io_dtype(precision)).itemsize
    shapes = [shape for name, shape in graph.inputs.items() if name.startswith((ADAPTER, COEFFICIENTS))]
    loras = itemsize * sum(math.prod(graph.fixed(shape)) for shape in shapes)
    return ComponentPlan(
        graph.name, precision, sum(counts.values()), sizes, size, chunks, partial(live_bytes, graph, itemsize), loras
    )


def advice(planned: Plan) -> list[str]:
    """Say what a phone will do with the plan, a sentence each, and what to do about it."""
    said = [
        f"{component.name}: over the 1 GB that the Neural Engine takes as one model, so it becomes a pipeline of "
        f"{component.chunks} or more chunks in one package; an app loads it like any other"
        for component in planned.components
        if component.chunks > 1
    ]
    over = [component for component in planned.components if component.running_bytes > PHONE_BYTES]
    budget = f"{PHONE_BYTES / 1e9:.1f} GB that an app may use on a phone of 6 GB"
    for most in over:
        do = _smaller_results(planned, most) if most.live_bytes > most.bytes else _smaller_weights(most)
        said.append(f"{_needs(most)}, over the {budget}: {do}")
    return said if over else [*said, f"{_needs(planned.largest)}, the most of all, within the {budget}"]


def _needs(component: ComponentPlan) -> str:
    parts = {"weights": component.bytes, "LoRAs": component.adapter_bytes, "results": component.live_bytes}
    of = ", ".join(f"{size / 1e9:.1f} of {what}" for what, size in parts.items())
    return f"{component.name} needs {component.running_bytes / 1e9:.1f} GB while it runs ({of})"


def _smaller_weights(most: ComponentPlan) -> str:
    """Return what makes the weights of a component fewer bytes; where they are not the most of it, what else helps."""
    room = PHONE_BYTES - most.adapter_bytes - most.live_bytes
    fits = [name for name, size in most.sizes.items() if size < most.bytes and size <= room]
    if fits:
        return f"choose the precision {' or '.join(fits)}"
    return "choose a lower `rank`, fewer `loras`, or a smaller base" if most.adapter_bytes else "choose a smaller base"


def _smaller_results(planned: Plan, most: ComponentPlan) -> str:
    """Return what makes the results of a component fewer bytes, which grow with the pixels."""
    room = PHONE_BYTES - most.bytes - most.adapter_bytes
    fits = next((side for side in SIDES if most.live_bytes * (side / planned.pixels) ** 2 <= room), 0)
    ways = [f"`resolution` {fits}"] if 0 < fits < planned.pixels else []
    if most.name == "vae_decoder":
        offered = planned.target.tolerances[most.name]
        if "fp16" in offered and most.precision == "fp32":
            ways.insert(0, "`vae_precision` fp16, half of it, for a VAE that was made for fp16")
        ways += [*([f"`vae_tile` {planned.pixels // 2}"] if planned.pixels >= SIDES[0] else []), "`tiny_vae`"]
    return "choose " + ", or ".join(ways or ["a smaller base"])


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
