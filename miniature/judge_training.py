"""Train and calibrate the miniature's judge; resumable, and the same for the same seed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from miniature.judge import MiniatureJudge, round_weights, save_judge, to_input
from miniature.judge_data import CALIBRATION, GROUP, PLAIN, UNSEEN, Drawings, training_drawings, worn
from miniature.judge_network import (
    STYLE,
    STYLE_SIZE,
    SUBJECT,
    JudgeNetwork,
    Widths,
    channels_last,
    split_details,
)
from miniature.judge_trials import accuracy, as_csv, calibrate, draw_trials, judge_report, random_settings
from miniature.loop import Loop, Schedule, fast_products, seeded
from miniature.progress import Report, silent

SCHEDULE = Schedule(steps=3600, rate=4e-3, warmup=60)
BATCH_GROUPS = 8  # of GROUP drawings
PLAIN_FIRST = (0.12, 0.5)
"""Until the first share of the steps all batches are plain, from the second on none are. Details are learned several
times as fast from plain drawings, and then soon found again in styles.
"""
SHIFT = 5  # largest move of a training image, in pixels
WORN_SHARE = 0.7  # of the training batches
TEMPERATURE = 0.1  # of the contrastive loss
PROXY_SCALE = 16.0  # of cosines with a family's proxy
FAMILY_WEIGHT, STYLE_WEIGHT, DETAIL_WEIGHT = 0.3, 0.6, 0.35
NORM_BATCHES = 40  # that the norms' statistics are measured on


@dataclass(frozen=True)
class JudgePlan:
    """How much is drawn, trained and tried: about 9 minutes on two cores."""

    drawings: int = 36_000
    schedule: Schedule = SCHEDULE
    trials: int = 1040  # for the calibration
    subject: Widths = SUBJECT
    style: Widths = STYLE
    workers: int = 2


PLAN = JudgePlan()
STATE = "judge.state"


def build_judge(
    seed: int, work: Path, folder: Path, plan: JudgePlan = PLAN, report: Report = silent, device: str = "cpu"
) -> MiniatureJudge:
    """Train and calibrate the judge, try it on the held-out subjects and styles, and save it in `folder`.

    `work` keeps what a stopped run needs.
    """
    start = time.monotonic()
    judge = train_judge(seed, work, plan, report, device)
    rows = judge_report(judge, seed, workers=plan.workers, report=report)
    judge.facts |= {
        "seed": seed,
        "drawings": plan.drawings,
        "steps": plan.schedule.steps,
        "seconds": round(time.monotonic() - start),
        "accuracy": accuracy(rows),
    }
    save_judge(judge, folder, as_csv(rows))
    (work / STATE).unlink()
    return judge


def train_judge(
    seed: int, work: Path, plan: JudgePlan = PLAN, report: Report = silent, device: str = "cpu"
) -> MiniatureJudge:
    """Train and calibrate the judge. A run that was stopped goes on from the state in `work`, which stays there."""
    data = training_drawings(seed, plan.drawings, work / "judge_drawings", plan.workers, report)
    torch.manual_seed(seed)
    network = channels_last(JudgeNetwork(plan.subject, plan.style))
    proxies = nn.Linear(STYLE_SIZE, PLAIN + 1, bias=False)
    settings = {"steps": plan.schedule.steps, "rate": plan.schedule.rate, "drawings": plan.drawings, "seed": seed}
    state = work / STATE
    step = JudgeLoss(network, proxies, data, seed, plan.schedule, device)
    Loop([network, proxies], plan.schedule, state, "judge", settings, report, device).run(step)
    measure_norms(network, step, plan.schedule.steps)
    network.eval()
    round_weights(network)
    trials = draw_trials(random_settings(seed, plan.trials), seed, CALIBRATION, plan.workers, report)
    return MiniatureJudge(network, calibrate(network, trials, seed))


class JudgeLoss:
    """The loss of a step: what subjects are, and which styles are the same."""

    def __init__(
        self,
        network: JudgeNetwork,
        proxies: nn.Linear,
        data: Drawings,
        seed: int,
        schedule: Schedule,
        device: str = "cpu",
    ) -> None:
        self.network, self.proxies, self.data, self.seed, self.steps = network, proxies, data, seed, schedule.steps
        self.device = device
        groups = data.families[::GROUP]
        self.plain, self.all = (torch.from_numpy(np.flatnonzero(kept)) for kept in (groups == PLAIN, groups >= 0))

    def __call__(self, step: int) -> Float[Tensor, ""]:
        """Return the loss of a step. Styles, the easier part, are learned from every other batch that has any."""
        rows, images, plain = self.batch(step)
        details, styles, families = (
            torch.from_numpy(values[rows]).to(self.device)
            for values in (self.data.details, self.data.styles, self.data.families)
        )
        images = images.to(self.device)
        with fast_products(self.device):
            loss = DETAIL_WEIGHT * detail_loss(self.network.read_subject(images), details)
            if plain or step % 2:
                return loss
            style = self.network.read_style(images)
        cosines = style @ F.normalize(self.proxies.weight, dim=1).T
        return (
            loss
            + STYLE_WEIGHT * contrastive_loss(style, styles)
            + FAMILY_WEIGHT * F.cross_entropy(PROXY_SCALE * cosines, families)
        )

    def batch(self, step: int) -> tuple[np.ndarray, Float[Tensor, "b 3 h w"], bool]:
        """Return the rows of whole groups, their images moved and worn, and whether it is a plain batch.

        Every style comes with other subjects, every family with another style, in the same batch.
        """
        generator = seeded(self.seed, step)
        first, last = PLAIN_FIRST
        share = (last - step / self.steps) / (last - first)
        plain = len(self.plain) > 0 and float(torch.rand((), generator=generator)) < share
        groups = self.plain if plain else self.all
        chosen = groups[torch.randperm(len(groups), generator=generator)[:BATCH_GROUPS]]
        rows = (GROUP * chosen[:, None] + torch.arange(GROUP)).flatten().numpy()
        images = _moved(to_input(self.data.images[rows]), generator)
        if torch.rand((), generator=generator) < WORN_SHARE:
            images = worn(images, generator)
        return rows, images.contiguous(memory_format=torch.channels_last), plain


def detail_loss(logits: Float[Tensor, "n values"], details: Int[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Return the sum of the details' cross entropies; a colour that is not shown has none."""
    total = logits.new_zeros(())
    for part, wanted in zip(split_details(logits).values(), details.unbind(1), strict=True):
        # Over all rows, not the shown ones alone: a batch may show none.
        total = total + F.cross_entropy(part, wanted, ignore_index=UNSEEN, reduction="sum") / len(part)
    return total


def contrastive_loss(style: Float[Tensor, "n s"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return the supervised contrastive loss (arXiv 2004.11362, L_out): the same style's rows against all others'."""
    alone = torch.eye(len(style), dtype=torch.bool, device=style.device)
    same = (labels[:, None] == labels) & ~alone
    similar = (style @ style.T / TEMPERATURE).masked_fill(alone, -torch.inf)
    surprise = similar.logsumexp(dim=1, keepdim=True) - similar.masked_fill(alone, 0)
    return ((surprise * same).sum(1) / same.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def measure_norms(network: JudgeNetwork, step: JudgeLoss, first: int) -> None:
    """Measure the batch norms' statistics with the weights as they are: the averaged weights had no part in them."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean of all batches
    network.train()
    for number in range(NORM_BATCHES):
        network(step.batch(first + number)[1])


def _moved(images: Float[Tensor, "b 3 h w"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Move each image by up to SHIFT pixels; what comes in is mirrored."""
    height, width = images.shape[2:]
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    places = torch.randint(2 * SHIFT + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([padded[row, :, y : y + height, x : x + width] for row, (y, x) in enumerate(places)])
