"""Summarise the answers: counts, shares with intervals, and how they agree with MARS²'s verdicts.

Answers of one participant, and answers on one task, are not independent. Each share therefore has two bootstrap
intervals, over participants and over tasks (whole clusters drawn again), beside Wilson's, which takes all answers as
independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from jaxtyping import Int64

from human_study.definition import Study
from human_study.store import Answer
from lorarar.intervals import bootstrap_interval, wilson_interval

DRAWS = 5000

Bounds = tuple[float, float]
"""The two ends of a 95 % interval."""
# Outcome of an answer or of a verdict, seen from the study's first method.
FIRST, SIMILAR, SECOND = 0, 1, 2


@dataclass(frozen=True)
class Share:
    """One line of the table. `share` and intervals are fractions of 1; None where the answers can't give them."""

    label: str
    count: int
    share: float | None
    by_participants: Bounds | None
    by_tasks: Bounds | None
    wilson: Bounds | None


@dataclass(frozen=True)
class Agreement:
    """The agreement with MARS², which prefers the method whose image alone it accepts, else calls the two similar.

    `same` counts answers equal to the verdict, of `answers`; `same_decided` those of the `decided` in which both the
    person and MARS² prefer a method. `correlation` is Pearson's, over tasks, of the mean answer with the verdict (+1
    first, 0 similar, −1 second); None where either does not vary. `table[verdict, answer]` holds the counts.
    """

    answers: int
    same: int
    decided: int
    same_decided: int
    correlation: float | None
    table: Int64[np.ndarray, "3 3"]


@dataclass(frozen=True)
class Summary:
    """The result of one study. `shares` are: first method, similar, second method, first method or similar."""

    case: str
    methods: tuple[str, str]
    tasks: int
    participants: int
    complete: int
    answers: int
    shares: tuple[Share, ...]
    first_option: tuple[int, int]  # Option 1 chosen, of the answers that chose a side: near half, if sides don't matter
    median_seconds: float | None
    agreement: Agreement | None


def summarise(study: Study, answers: Sequence[Answer], seed: int = 0) -> Summary:
    """Summarise any number of answers, none included. `seed` is the bootstrap's."""
    outcomes = [_outcome(answer.preferred, study) for answer in answers]
    people = _table(outcomes, [answer.participant for answer in answers])
    tasks = _table(outcomes, [answer.task for answer in answers])
    sides = [answer.choice for answer in answers if answer.choice != "similar"]
    return Summary(
        case=study.case,
        methods=study.methods,
        tasks=len(study.tasks),
        participants=len(people),
        complete=int((people.sum(axis=1) == len(study.tasks)).sum()),
        answers=len(answers),
        shares=_shares(study.methods, people, tasks, seed),
        first_option=(sides.count("option1"), len(sides)),
        median_seconds=median(answer.seconds for answer in answers) if answers else None,
        agreement=_agreement(study, answers, outcomes),
    )


def only_complete(study: Study, answers: Sequence[Answer]) -> list[Answer]:
    """Return the answers of participants who answered every task."""
    given = Counter(answer.participant for answer in answers)
    return [answer for answer in answers if given[answer.participant] == len(study.tasks)]


def cluster_bootstrap(
    hits: Int64[np.ndarray, " clusters"], totals: Int64[np.ndarray, " clusters"], seed: int
) -> Bounds | None:
    """Return the 95 % percentile interval of sum(hits)/sum(totals), with whole clusters drawn with replacement.

    None for fewer than two clusters: one says nothing about how they differ.
    """
    if len(totals) < 2:
        return None
    return bootstrap_interval(hits.astype(np.float64), totals.astype(np.float64), draws=DRAWS, seed=seed)


def _outcome(preferred: str | None, study: Study) -> int:
    if preferred is None:
        return SIMILAR
    return FIRST if preferred == study.methods[0] else SECOND


def _table(outcomes: Sequence[int], clusters: Sequence[int] | Sequence[str]) -> Int64[np.ndarray, "clusters 3"]:
    """Count how often each cluster gave each outcome; clusters in order of their first answer."""
    rows = {name: row for row, name in enumerate(dict.fromkeys(clusters))}
    table = np.zeros((len(rows), 3), np.int64)
    for name, outcome in zip(clusters, outcomes, strict=True):
        table[rows[name], outcome] += 1
    return table


def _shares(
    methods: tuple[str, str],
    people: Int64[np.ndarray, "participants 3"],
    tasks: Int64[np.ndarray, "tasks 3"],
    seed: int,
) -> tuple[Share, ...]:
    total = int(people.sum())
    lines = (
        (f"{methods[0]} preferred", [FIRST]),
        ("similar", [SIMILAR]),
        (f"{methods[1]} preferred", [SECOND]),
        (f"{methods[0]} preferred or similar", [FIRST, SIMILAR]),
    )
    shares = []
    for label, columns in lines:
        count = int(people[:, columns].sum())
        by_participants, by_tasks = (
            cluster_bootstrap(table[:, columns].sum(axis=1), table.sum(axis=1), seed) for table in (people, tasks)
        )
        share = count / total if total else None
        shares.append(Share(label, count, share, by_participants, by_tasks, wilson_interval(count, total)))
    return tuple(shares)


def _agreement(study: Study, answers: Sequence[Answer], outcomes: Sequence[int]) -> Agreement | None:
    """Compare the answers with the verdicts; None if no answered task has any."""
    first, second = study.methods
    verdicts = {
        task.id: SIMILAR + int(task.accepted[second]) - int(task.accepted[first])
        for task in study.tasks
        if task.accepted is not None
    }
    judged = [
        (answer.task, outcome) for answer, outcome in zip(answers, outcomes, strict=True) if answer.task in verdicts
    ]
    if not judged:
        return None
    table = np.zeros((3, 3), np.int64)
    scores: dict[str, list[int]] = {}
    for name, outcome in judged:
        table[verdicts[name], outcome] += 1
        scores.setdefault(name, []).append(SIMILAR - outcome)
    means = [float(np.mean(score)) for score in scores.values()]
    wanted = [float(SIMILAR - verdicts[name]) for name in scores]
    # Means of whole numbers: what does not vary is constant exactly.
    varied = len(set(means)) > 1 and len(set(wanted)) > 1
    sides = table[np.ix_([FIRST, SECOND], [FIRST, SECOND])]
    return Agreement(
        answers=len(judged),
        same=int(np.trace(table)),
        decided=int(sides.sum()),
        same_decided=int(np.trace(sides)),
        correlation=float(np.corrcoef(means, wanted)[0, 1]) if varied else None,
        table=table,
    )
