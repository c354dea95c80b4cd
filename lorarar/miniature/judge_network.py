"""The miniature judge's network: one convolutional trunk, what it says of the subject's details, and a style embedding.

A subject is read as beliefs about its details (kind, colours, marking, accessory), not as one point in space. In a
style that takes colour away the beliefs about colours are flat, and a flat belief is no evidence; a cosine of
embeddings can't tell "I don't see the colour" from "the colour is wrong", and must refuse every statue or let wrong
colours pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.miniature.subjects import COLOURS, HEADWEAR, KINDS, MARKINGS, WORN

ACCESSORIES = ("none", *dict.fromkeys((*HEADWEAR, *WORN)))
DETAILS: Mapping[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "body": tuple(COLOURS),
    "second": tuple(COLOURS),
    "marking": tuple(MARKINGS),
    "marking_colour": tuple(COLOURS),
    "accessory": ACCESSORIES,
    "accessory_colour": tuple(COLOURS),
}
"""What the network says of a subject, and the values that each detail has."""

STYLE_SIZE = 128
MAX_CHANNELS, MAX_BLOCKS = 512, 8
QUERIES = 8  # places that the subject's head looks at
VARIANCE_FLOOR = 1e-4  # keeps the root's slope finite


@dataclass(frozen=True)
class Widths:
    """Channels, and blocks of two convolutions, at 24, 12 and 6 pixels a side of a 96-pixel image."""

    stem: int = 32  # channels at 48 pixels
    channels: tuple[int, int, int] = (64, 128, 192)
    blocks: tuple[int, int, int] = (2, 2, 2)

    def __post_init__(self) -> None:
        """Widths come from files too: refuse a network that would not be a small one."""
        wide = max(self.stem, *self.channels) > MAX_CHANNELS or min(self.stem, *self.channels) < 1
        if wide or max(self.blocks) > MAX_BLOCKS or min(self.blocks) < 1:
            raise ValueError(f"a judge has 1 to {MAX_CHANNELS} channels and 1 to {MAX_BLOCKS} blocks a stage")


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inp: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        nn.init.zeros_(self.second_norm.weight)  # a block begins as its shortcut
        self.shortcut = nn.Conv2d(inp, out, 1, bias=False) if stride > 1 or inp != out else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        short = self.shortcut(F.avg_pool2d(x, 2) if self.stride > 1 else x)
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(short + self.second_norm(self.second(inner)))


class JudgeNetwork(nn.Module):
    """Images in, beliefs and style embeddings out."""

    def __init__(self, widths: Widths | None = None) -> None:
        super().__init__()
        self.widths = widths or Widths()
        stem, channels = self.widths.stem, self.widths.channels
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 5, 2, 2, bias=False), nn.BatchNorm2d(stem), nn.ReLU())
        stages, inp = [], stem
        for out, blocks in zip(channels, self.widths.blocks, strict=True):
            later = [_Block(out, out, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(_Block(inp, out, 2), *later))
            inp = out
        self.stages = nn.ModuleList(stages)
        self.looks = nn.Conv2d(inp, QUERIES, 1)
        self.details = nn.Linear(inp * QUERIES, sum(map(len, DETAILS.values())))
        self.style = nn.Linear(2 * (stem + sum(channels)), STYLE_SIZE)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n values"], Float[Tensor, "n style"]]:
        """Images in [-1, 1] → the logits of all DETAILS, and style embeddings of unit length.

        The style is read from means and deviations of every stage's features, which do not depend on where things are.
        """
        x = self.stem(images)
        statistics = _statistics(x)
        for stage in self.stages:
            x = stage(x)
            statistics += _statistics(x)
        places = self.looks(x).flatten(2).float().softmax(dim=2)
        looked = torch.einsum("nqp,ncp->nqc", places, x.flatten(2).float()).flatten(1)
        # Adam moves every weight alike: without the root, one step would move a logit of so many features too far.
        logits = self.details(looked / looked.shape[1] ** 0.5)
        return logits.float(), F.normalize(self.style(torch.cat(statistics, dim=1)).float(), dim=1)


def _statistics(features: Tensor) -> list[Tensor]:
    flat = features.flatten(2).float()
    return [flat.mean(2), (flat.var(2) + VARIANCE_FLOOR).sqrt()]


def split_details(logits: Float[Tensor, "n values"]) -> dict[str, Float[Tensor, "n _"]]:
    """The logits by detail."""
    parts = logits.split([len(values) for values in DETAILS.values()], dim=1)
    return dict(zip(DETAILS, parts, strict=True))


def channels_last(network: JudgeNetwork) -> JudgeNetwork:
    """In place; convolutions on a CPU are much faster so."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
