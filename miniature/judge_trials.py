"""Try the judge on test images with references that fit them and others that do not: calibrate it, and report on it.

It is never trained on these. For the calibration they are random subjects in random styles, for the report the 30
catalogue subjects in the 26 gallery styles.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from jaxtyping import Float, Int, UInt8

from lorarar.evaluation.judges import THRESHOLD
from lorarar.pool import process_pool
from miniature.catalogue import CATALOGUE, fresh_subject
from miniature.gallery import GALLERY
from miniature.judge import MiniatureJudge, Seen, style_cosines
from miniature.judge_data import CALIBRATION, REPORT, changed, sample_style, worn_images
from miniature.judge_network import JudgeNetwork
from miniature.judge_verdicts import Calibration, evidence, fit
from miniature.loop import seeded
from miniature.progress import Report, counted, silent
from miniature.scene import picture
from miniature.styles import FAMILIES, DrawnStyle
from miniature.subjects import Subject

SUBJECT_CASES = {
    "same subject": 1.0,
    "another kind": 0.3,
    "same kind": 0.4,
    "two details changed": 0.3,
    "one detail changed": 0.0,
}
STYLE_CASES = {"same style": 1.0, "another family": 0.7, "same family": 0.0, "plain": 0.3}
"""What a reference is to a test image, and what the case weighs in the calibration: the yeses as much as all noes.

"plain" is the other way round: a test image without a style against a style's reference. Near misses weigh nothing,
since neither answer would be the paper's: it asks whether the image has the style of a description, which all styles of
a family share, and its judge passes over a hat of another colour. How often this one says yes to them is in its report.
"""
YES = ("same subject", "same style")  # the cases that the answer yes belongs to
AS_DRAWN, WORN = "as drawn", "worn"

Images = UInt8[np.ndarray, "n size size 3"]
Pairs = dict[str, tuple[Seen, Seen]]
"""Case → the references and the test images, row by row."""


@dataclass(frozen=True)
class Setting:
    """A subject and a style to be tried together, by names that the report groups by."""

    subject: Subject
    style: DrawnStyle
    subject_name: str
    style_name: str


@dataclass(frozen=True)
class Trials:
    """Test images, and for every case one reference image for each."""

    settings: tuple[Setting, ...]
    test: Images
    plain: Images  # tests without a style
    subject: dict[str, Images]
    style: dict[str, Images]


def random_settings(seed: int, count: int) -> list[Setting]:
    """Choose subjects and styles for calibration: every family in turn, never a held-out subject or style."""
    settings = []
    for number in range(count):
        rng = np.random.default_rng((seed, CALIBRATION + number))
        family = list(FAMILIES)[number % len(FAMILIES)]
        subject = fresh_subject(rng)
        settings.append(Setting(subject, sample_style(rng, family), subject.kind, family))
    return settings


def held_out_settings(count: int | None = None) -> list[Setting]:
    """Return every catalogue subject in every gallery style, or the first `count` of them, going round both."""
    subjects, styles = list(CATALOGUE.items()), list(GALLERY.items())
    pairs = []
    for number in range(count or len(subjects) * len(styles)):
        subject_name, entry = subjects[number % len(subjects)]
        # Both have come round together after their least common multiple: go on one style further.
        style_name, style = styles[(number + number // math.lcm(len(subjects), len(styles))) % len(styles)]
        pairs.append(Setting(entry.subject, style, subject_name, style_name))
    return pairs


def draw_trials(
    settings: Sequence[Setting], seed: int, namespace: int = REPORT, workers: int = 2, report: Report = silent
) -> Trials:
    """Draw some settings; trial number i depends on the seed, the namespace and i alone."""
    jobs = [(setting, seed, namespace + number) for number, setting in enumerate(settings)]
    with process_pool(workers) as pool:
        rows = list(counted(pool.map(_trial, jobs, chunksize=8), len(jobs), "drawing trials", report))
    drawn = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    kinds = [setting.subject.kind for setting in settings]
    families = [setting.style.family for setting in settings]
    drawn["another kind"] = drawn["same subject"][_other(kinds)]
    drawn["another family"] = drawn["same style"][_other(families)]
    return Trials(
        tuple(settings),
        drawn["test"],
        drawn["plain"],
        {case: drawn[case] for case in SUBJECT_CASES},
        {case: drawn[case] for case in STYLE_CASES if case != "plain"},
    )


def _trial(job: tuple[Setting, int, int]) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
    """Draw the images of one setting, by case."""
    setting, *numbers = job
    # The trailing number keeps these drawings apart from the settings, which the same numbers made.
    rng = np.random.default_rng((*numbers, 1))
    subject, style = setting.subject, setting.style
    return {
        "test": picture(subject, style, rng),
        "same subject": picture(subject, None, rng),
        "same kind": picture(fresh_subject(rng, subject.kind), None, rng),
        "two details changed": picture(changed(subject, rng, 2), None, rng),
        "one detail changed": picture(changed(subject, rng, 1), None, rng),
        "same style": picture(fresh_subject(rng), style, rng),
        "same family": picture(fresh_subject(rng), sample_style(rng, style.family), rng),
        "plain": picture(fresh_subject(rng), None, rng),
    }


def _other(labels: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Return for each row another row of a different label, all rows used about alike."""
    count = len(labels)
    found = []
    for row, label in enumerate(labels):
        start = row + 1 + (row * 7) % max(1, count - 1)
        candidates = (other % count for other in range(start, start + count))
        found.append(next(other for other in candidates if labels[other] != label))
    return np.array(found)


def calibrate(network: JudgeNetwork, trials: Trials, seed: int) -> Calibration:
    """Fit both verdicts on trials, test images as drawn and worn."""
    judge = MiniatureJudge(network, Calibration((), (1.0, 0.0)))
    subject, style = [], []
    for images in (AS_DRAWN, WORN):
        of_subject, of_style = seen_pairs(judge, trials, seed, images)
        subject += [(case, evidence(first.beliefs, test.beliefs)) for case, (first, test) in of_subject.items()]
        style += [(case, style_cosines(first, test)) for case, (first, test) in of_style.items()]
    slope, bias = _fitted(style, STYLE_CASES)
    return Calibration(tuple(_fitted(subject, SUBJECT_CASES)), (slope, bias))


def _fitted(examples: Sequence[tuple[str, Float[np.ndarray, "_ e"]]], weights: Mapping[str, float]) -> list[float]:
    """Fit a verdict on the examples of each case."""
    cases = np.repeat([case for case, _ in examples], [len(columns) for _, columns in examples])
    columns = np.concatenate([columns for _, columns in examples])
    return fit(columns, np.isin(cases, YES), np.array([weights[case] for case in cases]))


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
            right = (probabilities > THRESHOLD) == (case in YES)
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
    for side, cases in (("subject", SUBJECT_CASES), ("style", STYLE_CASES)):
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
