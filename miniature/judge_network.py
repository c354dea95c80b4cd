"""Build the miniature judge's network: beliefs about a subject's details, and a style embedding.

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

from miniature.subjects import COLOURS, HEADWEAR, KINDS, MARKINGS, WORN

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
QUERIES = 12  # places that the subject's head looks at
HIDDEN = 256
VARIANCE_FLOOR = 1e-4  # keeps the root's slope finite


@dataclass(frozen=True)
class Widths:
    """The channels, and blocks of two convolutions, at 24, 12 and 6 pixels a side of a 96-pixel image."""

    stem: int  # channels at 48 pixels
    channels: tuple[int, ...]
    blocks: tuple[int, ...]


SUBJECT = Widths(16, (48, 96, 192), (1, 2, 2))
STYLE = Widths(16, (32, 64, 96), (1, 1, 1))  # texture and colour are soon learned


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


class _Trunk(nn.Module):
    """A network that gives an image's features at every resolution."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        stem = nn.Conv2d(3, widths.stem, 5, 2, 2, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths.stem), nn.ReLU())
        stages, inp = [], widths.stem
        for out, blocks in zip(widths.channels, widths.blocks, strict=True):
            later = [_Block(out, out, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(_Block(inp, out, 2), *later))
            inp = out
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features


class JudgeNetwork(nn.Module):
    """A network from images to beliefs and style embeddings, a trunk for each: what one reads the other ignores."""

    def __init__(self, subject: Widths = SUBJECT, style: Widths = STYLE) -> None:
        super().__init__()
        self.widths = {"subject": subject, "style": style}
        self.subject_trunk, self.style_trunk = _Trunk(subject), _Trunk(style)
        _, middle, last = subject.channels
        self.raised = nn.Conv2d(last, middle, 1)
        self.looks = nn.Conv2d(middle, QUERIES, 1)
        self.hidden = nn.Sequential(nn.Linear(middle * QUERIES, HIDDEN, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU())
        self.details = nn.Linear(HIDDEN, sum(map(len, DETAILS.values())))
        self.style = nn.Linear(2 * (style.stem + sum(style.channels)), STYLE_SIZE)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n values"], Float[Tensor, "n s"]]:
        """Return the logits of all DETAILS, and style embeddings of unit length, for images in [-1, 1]."""
        return self.read_subject(images), self.read_style(images)

    def read_subject(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n values"]:
        """Gather features at QUERIES places that depend on the image; at 12 pixels a side, as details are small."""
        *_, middle, last = self.subject_trunk(images)
        features = F.relu(middle + F.interpolate(self.raised(last), scale_factor=2.0))
        places = self.looks(features).flatten(2).float().softmax(dim=2)
        looked = torch.einsum("nqp,ncp->nqc", places, features.flatten(2).float()).flatten(1)
        return self.details(self.hidden(looked)).float()

    def read_style(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n s"]:
        """Take means and deviations of the features at every resolution: they do not depend on where things are."""
        statistics = []
        for features in self.style_trunk(images):
            flat = features.flatten(2).float()
            statistics += [flat.mean(2), (flat.var(2) + VARIANCE_FLOOR).sqrt()]
        return F.normalize(self.style(torch.cat(statistics, dim=1)).float(), dim=1)


def split_details(logits: Float[Tensor, "n values"]) -> dict[str, Float[Tensor, "n _"]]:
    """Split the logits by detail."""
    parts = logits.split([len(values) for values in DETAILS.values()], dim=1)
    return dict(zip(DETAILS, parts, strict=True))


def channels_last(network: JudgeNetwork) -> JudgeNetwork:
    """Let a network compute with channels last, in place: convolutions on a CPU are much faster then."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
