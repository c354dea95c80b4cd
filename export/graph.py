"""What is exported: a module with named inputs and outputs. How is the targets' affair."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from export.adapted import CONDITIONS, AdaptedUNet
from export.parts import ImageDecoder, TextEncoder
from lorarar.hypernet.graph import Merger
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import Layout, Shape, adapter_shapes, fixed, input_shapes, output_shapes, rank_sizes

# Runtimes schedule a product over a whole group at least as well as an unrolled loop over parts of it, whose graph is
# eleven times as long (SDXL: 656 nodes against 60, and 16 s to export).
_WHOLE_GROUP = 1 << 30
# XNNPACK takes the transposed form as one delegate (KOALA-700M, rank 64: 77 ms); in the plain one 12 `expand_copy` stay
# with the portable kernels (148 ms).
_FORMS = {"onnx": "stacked", "coreml": "plain", "executorch": "transposed"}


@dataclass(frozen=True)
class Graph:
    """A module whose forward takes these inputs as keywords and returns a dict with these outputs, in this order."""

    name: str
    module: nn.Module
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    sizes: Mapping[str, int]  # the value of every named size, where it has to be fixed
    kept: Mapping[str, torch.dtype] = field(default_factory=dict)  # inputs whose type no precision changes
    golden: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # recipes of inputs that are no common ones
    owned: bool = False  # whether the module may be changed in place: a copy of SDXL's is 10 GB

    def fixed(self, shape: Shape) -> tuple[int, ...]:
        """The shape with names replaced by `sizes`."""
        return fixed(shape, self.sizes)

    def example(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Inputs to trace with. Their memory is never touched, so that a full-size trace costs none."""
        return {
            name: torch.empty(self.fixed(shape), dtype=self.kept.get(name, dtype))
            for name, shape in self.inputs.items()
        }

    def give_back(self) -> None:
        """Empty an owned module, and collect what exporters leave: graphs full of cycles.

        The weights are dropped, whatever tensors they are; `module.to("meta")` can't move quantised ones.
        """
        if not self.owned:
            return
        for layer in self.module.modules():
            for name, value in list(layer.named_parameters(recurse=False)):
                setattr(layer, name, nn.Parameter(torch.empty(value.shape, device="meta"), requires_grad=False))
        gc.collect()


def merger_graph(hypernet: Hypernetwork, layout: Layout, target: str, rank: int) -> Graph:
    """The merger's graph in the form that the target's runtime computes fastest."""
    merger = Merger(hypernet, layout, at_once=_WHOLE_GROUP, form=_FORMS[target])
    return Graph("merger", merger, input_shapes(layout), output_shapes(layout), rank_sizes(rank))


@dataclass(frozen=True)
class ImageSize:
    """What a UNet is exported for."""

    pixels: int  # of a side
    latent: int  # pixels of the latents' side
    batch: int  # 2 takes the prompt and the empty one of classifier-free guidance together


def unet_graph(unet: Any, layout: Layout | None, rank: int, size: ImageSize, module: nn.Module | None = None) -> Graph:
    """The UNet's graph for images of one size; takes `unet` over. Without a layout it has no adapters.

    With a `module` of the caller's the UNet is left alone: for the graph's inputs and outputs only. What the time
    embedding is made of stays in fp32: in half precision t·frequency loses what tells steps apart.
    """
    config, batch, latent = unet.config, size.batch, size.latent
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    widths = dict(zip(CONDITIONS, ((batch, 77, config.cross_attention_dim), (batch, pooled), (batch, 6)), strict=True))
    inputs: dict[str, Shape] = {"sample": (batch, config.in_channels, latent, latent), "timestep": (batch,), **widths}
    # text_embeds too: it is joined with what time_ids become.
    kept = dict.fromkeys(("timestep", "text_embeds", "time_ids"), torch.float32)
    if layout is not None:
        inputs |= adapter_shapes(layout)
    outputs: dict[str, Shape] = {"noise_pred": (batch, config.out_channels, latent, latent)}
    side = float(size.pixels)
    sizes = {"values": [side, side, 0.0, 0.0, side, side] * batch}
    module = AdaptedUNet(unet, layout) if module is None else module
    return Graph("unet", module, inputs, outputs, {"merged_rank": 2 * rank}, kept, {"time_ids": sizes}, owned=True)


def text_graph(name: str, model: Any, tokens: Sequence[int]) -> Graph:
    """A CLIP text encoder for one prompt at a time; `tokens` are its golden input, a padded prompt."""
    text = TextEncoder(model)
    length, width = len(tokens), text.width
    outputs: dict[str, Shape] = {"hidden_states": (1, length, width)}
    if text.projection is not None:
        outputs["text_embeds"] = (1, text.projection.out_features)
    # Token numbers in fp16 would be rounded: 49406 and 49407 become one.
    kept, golden = {"input_ids": torch.int32}, {"input_ids": {"values": list(tokens)}}
    return Graph(name, text, {"input_ids": (1, length)}, outputs, {}, kept, golden)


def vae_graph(vae: Any, size: ImageSize) -> Graph:
    """The VAE's decoder for one image: latents as the scheduler leaves them, pixels in [0, 1]."""
    latents: Shape = (1, vae.config.latent_channels, size.latent, size.latent)
    image: Shape = (1, vae.config.out_channels, size.pixels, size.pixels)
    return Graph("vae_decoder", ImageDecoder(vae), {"latents": latents}, {"image": image}, {})
