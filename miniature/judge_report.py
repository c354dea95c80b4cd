"""Count how often the miniature's judge is right, by case and by style, on drawings as they are and on worn ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from lorarar.evaluation.judges import THRESHOLD
from miniature.judge import MiniatureJudge, Seen
from miniature.judge_trials import (
    STYLE_CASES,
    SUBJECT_CASES,
    Trials,
    draw_trials,
    held_out_settings,
)
from miniature.judge_wear import worn_images
from miniature.loop import seeded
from miniature.progress import Report, silent

AS_DRAWN, WORN = "as drawn", "worn"
SIDES = {"subject": SUBJECT_CASES, "style": STYLE_CASES}

Pairs = dict[str, tuple[Seen, Seen]]
"""Case → the references and the test images, row by row."""


@dataclass(frozen=True)
class CaseCount:
    """The verdicts of one kind in one style."""

    side: str  # "subject" or "style": which question
    case: str
    style: str
    images: str  # AS_DRAWN or WORN: the test images; references are always as drawn
    right: int
    count: int


def judge_report(
    judge: MiniatureJudge, seed: int, count: int | None = None, workers: int = 2, report: Report = silent
) -> list[CaseCount]:
    """Try the judge on every catalogue subject in every gallery style, or on `count` of these pairs spread evenly."""
    trials = draw_trials(held_out_settings(count), seed, workers=workers, report=report)
    return report_of(judge, trials, seed)


def report_of(judge: MiniatureJudge, trials: Trials, seed: int) -> list[CaseCount]:
    """Return the rows of given trials."""
    styles = np.array([setting.style_name for setting in trials.settings])
    rows = []
    for images in (AS_DRAWN, WORN):
        subject, style = seen_pairs(judge, trials, seed, images)
        said = {("subject", case): judge.subject_probabilities(*pair) for case, pair in subject.items()}
        said |= {("style", case): judge.style_probabilities(*pair) for case, pair in style.items()}
        for (side, case), probabilities in said.items():
            right = (probabilities > THRESHOLD) == (case == SIDES[side][0])
            for name in dict.fromkeys(styles):
                chosen = right[styles == name]
                rows.append(CaseCount(side, case, str(name), images, int(chosen.sum()), len(chosen)))
    return rows


def seen_pairs(judge: MiniatureJudge, trials: Trials, seed: int, images: str) -> tuple[Pairs, Pairs]:
    """Return what the judge sees in all pairs of the trials, for the subject and for the style."""

    def tested(pictures: np.ndarray, number: int) -> Seen:
        return judge.see(worn_images(pictures, seeded(seed, number)) if images == WORN else pictures)

    test = tested(trials.test, 0)
    subject = {case: (judge.see(references), test) for case, references in trials.subject.items()}
    style = {case: (judge.see(references), test) for case, references in trials.style.items()}
    style["plain"] = (style["same style"][0], tested(trials.plain, 1))
    return subject, style


def accuracy(rows: Sequence[CaseCount]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by side, case and images the share of right verdicts over all styles."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for side, cases in SIDES.items():
        found[side] = {}
        for case in cases:
            found[side][case] = {}
            for images in (AS_DRAWN, WORN):
                chosen = [row for row in rows if (row.side, row.case, row.images) == (side, case, images)]
                share = sum(row.right for row in chosen) / max(1, sum(row.count for row in chosen))
                found[side][case][images] = round(share, 4)
    return found


def as_csv(rows: Sequence[CaseCount]) -> str:
    """Return all rows as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in fields(CaseCount)])
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue()
