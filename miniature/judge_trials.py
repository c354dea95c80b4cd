"""Draw trials of the judge: a test image with references that fit it and others that do not. Never trained on.

The same trials calibrate the judge (random subjects in random styles) and report on it (the 30 catalogue subjects in
the 26 gallery styles).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from lorarar.pool import process_pool
from miniature.catalogue import CATALOGUE, fresh_subject
from miniature.gallery import GALLERY
from miniature.judge_data import CALIBRATION, REPORT, changed, sample_style
from miniature.progress import Report, counted, silent
from miniature.scene import picture
from miniature.styles import FAMILIES, Style
from miniature.subjects import Subject

SUBJECT_CASES = ("same subject", "another kind", "same kind", "two details changed", "one detail changed")
STYLE_CASES = ("same style", "another family", "same family", "plain")
"""What a reference is to a test image; the first of each is the one that the answer yes belongs to.

"plain" is the other way round: a test image without a style against a style's reference.
"""

Images = UInt8[np.ndarray, "n size size 3"]


@dataclass(frozen=True)
class Setting:
    """A subject and a style to be tried together, by names that the report groups by."""

    subject: Subject
    style: Style
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
