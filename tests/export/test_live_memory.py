"""Results that are in memory together, counted from shapes: by hand, and by what PyTorch's own profiler sees."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from export.components.vae import vae_graph
from export.graph import Graph, ImageSize
from export.live_memory import live_bytes
from lorarar.base.sources import open_pipeline


class Steps(nn.Module):
    """Three results, of which two at most are there together, and a view that is none."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = x * 2
        second = first + 1
        del first
        third = second[:100].reshape(10, 10) * 1
        return {"y": third}


@pytest.mark.parametrize("itemsize", [2, 4])
def test_counted_by_hand(itemsize: int) -> None:
    graph = Graph("steps", Steps(), {"x": (1000,)}, {"y": (10, 10)}, {})
    assert live_bytes(graph, itemsize) == 2000 * itemsize


def test_weights_and_inputs_are_not_counted() -> None:
    graph = Graph("linear", Named(nn.Linear(64, 8, bias=False)), {"x": (4, 64)}, {"y": (4, 8)}, {})
    assert live_bytes(graph, 4) == 4 * 8 * 4


class Named(nn.Module):
    """A module with an input and an output of a name."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.module(x)}


def test_a_decoder_takes_what_the_profiler_sees(tiny_pipeline: Path) -> None:
    """Its kernels use a little beside their results, which is in the profiler's number and not in ours."""
    vae = open_pipeline(str(tiny_pipeline), False, torch.float32).vae.eval()
    graph = vae_graph(vae, ImageSize(pixels=256, latent=64, batch=1))
    latents = torch.zeros(graph.fixed(graph.inputs["latents"]))
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        graph.module(latents)
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert 0.9 < live_bytes(graph, 4) / max(accumulate(changes)) < 1.1
