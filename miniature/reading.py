"""Teach the text encoders to read: to tell from a caption's tokens what it says, before anything is drawn from them.

CLIP's encoders know their language before a UNet learns to draw from them. Trained only through a UNet, the
miniature's forget small words (docs/what-the-base-draws.md). What is asked of them is what cross-attention does: a
weighted average of the tokens' outputs, and a linear map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from miniature.base import encode, tokenize
from miniature.catalogue import fresh_subject
from miniature.judge_data import TOLD_BY, UNSEEN, details_of
from miniature.judge_network import DETAILS as VALUES
from miniature.loop import Loop, Schedule, fast_products, seeded
from miniature.population import FIRST, PLAIN_SHARE, TOLD, caption
from miniature.progress import Report, silent
from miniature.styles import FAMILIES
from miniature.subjects import DETAILS

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

SCHEDULE = Schedule(steps=1_200, rate=1e-3)
CAPTIONS = 40_000
BATCH = 128
PROBED = 3_000  # captions that a linear reader is fitted on and asked about
ANSWERS: Mapping[str, Sequence[str]] = {**VALUES, "style": tuple(FAMILIES)}
"""What is asked about a caption, and the answers: the details of a subject, and the family of styles."""


def told_captions(seed: int, count: int, first: int = 0) -> tuple[list[str], Int[Tensor, "n a"]]:
    """Make captions like the population's, from number `first` on, and the number of the right answer to each of
    ANSWERS, or UNSEEN.
    """
    texts, answers = [], []
    for index in range(first, first + count):
        rng = np.random.default_rng((seed, index))
        subject = fresh_subject(rng)
        details = tuple(detail for detail in DETAILS if rng.random() < TOLD)
        family = None if rng.random() < PLAIN_SHARE else int(rng.integers(len(FAMILIES)))
        style = None if family is None else list(FAMILIES.values())[family].description
        texts.append(caption(subject, details, style))
        seen = zip(VALUES, details_of(subject), strict=True)
        told = [number if TOLD_BY.get(name, name) in (None, *details) else UNSEEN for name, number in seen]
        answers.append([*told, UNSEEN if family is None else family])
    return texts, torch.tensor(answers)


def read_by_a_line(pipeline: StableDiffusionXLPipeline, seed: int, count: int = PROBED) -> dict[str, float]:
    """Return, for each of ANSWERS, the share of captions that a linear map of the tokens' average answers right.

    The map is fitted by least squares on half of `count` captions, and asked about the others. No training had them.
    """
    texts, answers = told_captions(seed, count, FIRST)
    with torch.no_grad():
        parts = [read(pipeline, tokens)[0] for tokens in tokenize(pipeline, texts).split(BATCH)]
    features = torch.cat([torch.cat(parts), torch.ones(count, 1)], 1).double()
    shares = {}
    for at, (name, values) in enumerate(ANSWERS.items()):
        rows = answers[:, at] != UNSEEN
        seen, right = features[rows], answers[rows, at]
        half = len(seen) // 2
        ridge = seen[:half].T @ seen[:half] + 1e-6 * torch.eye(seen.shape[1], dtype=torch.float64)
        line = torch.linalg.solve(ridge, seen[:half].T @ F.one_hot(right[:half], len(values)).double())
        shares[name] = float(((seen[half:] @ line).argmax(1) == right[half:]).double().mean())
    return shares


class Reader(nn.Module):
    """Answers ANSWERS linearly, from the average of a caption's tokens and from its pooled embedding."""

    def __init__(self, tokens: int, pooled: int) -> None:
        super().__init__()
        self.sizes = [len(values) for values in ANSWERS.values()]
        self.of_tokens = nn.Linear(tokens, sum(self.sizes))
        self.of_pooled = nn.Linear(pooled, sum(self.sizes))

    def forward(self, average: Float[Tensor, "b d"], pooled: Float[Tensor, "b p"]) -> list[tuple[Tensor, Tensor]]:
        """Return each question's scores by the two."""
        both = (self.of_tokens(average), self.of_pooled(pooled))
        return list(zip(*(scores.split(self.sizes, 1) for scores in both), strict=True))


def train_reading(
    pipeline: StableDiffusionXLPipeline,
    state: Path,
    seed: int,
    schedule: Schedule = SCHEDULE,
    count: int = CAPTIONS,
    device: str = "cpu",
    report: Report = silent,
) -> list[float]:
    """Train both text encoders in place to read captions. Returns the loss of every step."""
    texts, answers = told_captions(seed, count)
    tokens = tokenize(pipeline, texts)
    encoders = [pipeline.text_encoder.to(device), pipeline.text_encoder_2.to(device)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = pipeline.text_encoder.config.hidden_size + pipeline.text_encoder_2.config.hidden_size
        reader = Reader(sizes, pipeline.text_encoder_2.config.projection_dim)

    def loss_of(step: int) -> Float[Tensor, ""]:
        rows = torch.randint(len(tokens), (BATCH,), generator=seeded(seed, step))
        with fast_products(device):
            scores = reader(*read(pipeline, tokens[rows].to(device)))
        right = answers[rows].to(device)
        asked = [(part.float(), right[:, at]) for at, parts in enumerate(scores) for part in parts]
        return torch.stack([F.cross_entropy(part, want, ignore_index=UNSEEN) for part, want in asked]).mean()

    settings = {"steps": schedule.steps, "rate": schedule.rate, "captions": count, "seed": seed}
    return Loop([*encoders, reader], schedule, state, "reading", settings, report, device).run(loss_of)


def read(
    pipeline: StableDiffusionXLPipeline, tokens: Int[Tensor, "b n"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b p"]]:
    """Return the average of what a UNet gets of every caption's own tokens, and the pooled embedding."""
    own = (tokens == pipeline.tokenizer.eos_token_id).cumsum(1).roll(1, 1)
    own[:, 0] = 0
    own = own == 0
    # What follows the longest caption's end changes nothing before it.
    longest = int(own.sum(1).max())
    own = own[:, :longest]
    states, pooled = encode(pipeline, tokens[:, :longest])
    return (states * own[..., None]).sum(1) / own.sum(1, keepdim=True), pooled
