"""Score by MARS² (paper §4): subject and style judged apart, both needed, averaged and best of N. Pure numpy.

Definitions, for a pair of a content and a style with N generated images:

- *subject*: a judge compares the image with each reference of the subject (4 to 6). The image passes when the share of
  "yes" is more than one half; exactly half is a no ("correct for more than half of the reference images").
- *style*: one reference, one verdict.
- *joint* (the paper's score): both pass.
- *average* of a pair: the share of its N images that pass; *best*: 1 when at least one passes, else 0.
- *attempts*: the position, from 1, of the first image that passes, in the order of the seeds (paper Table 2). A pair
  with none counts N + 1, which is a lower bound; how many such pairs there are is reported beside it.
- *expected attempts*: the same in expectation over all orders of the N images: (N + 1)/(k + 1) for k that pass.
  It is N + 1 for none too, and less noisy than the position in one order.

Overall figures are means over pairs. Images of a pair share both LoRAs, and pairs share one of them with many others:
neither are independent. So intervals are over contents and styles, and never over single images or pairs: they say
what other subjects and other styles may give. A method's figures are skewed, and their intervals are drawn (the
bootstrap); the difference of two methods is symmetric, and its interval is Student's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

from lorarar.errors import InputError
from lorarar.intervals import bootstrap_interval, crossed_draws, crossed_interval, quantiles

RESAMPLES = 10_000
NO_WIDTH = 1e-9  # a width of 0, but for rounding
Name = TypeVar("Name", bound=Hashable)


def majority(yes: Bool[np.ndarray, "images references"]) -> Bool[np.ndarray, " images"]:
    """Tell whether more than half of the references said yes; exactly half is no."""
    if yes.shape[1] == 0:
        raise InputError("a subject without reference images can't be judged; give the dataset's contents images")
    return 2 * yes.sum(axis=1) > yes.shape[1]


@dataclass(frozen=True)
class PairVerdicts:
    """The judge's verdicts on the images of one pair, in the order of the seeds."""

    content: str
    style: str
    subject_yes: Bool[np.ndarray, "images references"]
    style_yes: Bool[np.ndarray, " verdicts"]

    def __post_init__(self) -> None:
        if len(self.subject_yes) != len(self.style_yes) or not len(self.style_yes):
            raise InputError(
                f"{self.content} in {self.style}: {len(self.subject_yes)} subject verdicts and {len(self.style_yes)} "
                "style verdicts; a pair needs the same number of both, at least 1"
            )

    @property
    def name(self) -> tuple[str, str]:
        return self.content, self.style

    @property
    def subject(self) -> Bool[np.ndarray, " images"]:
        return majority(self.subject_yes)

    @property
    def joint(self) -> Bool[np.ndarray, " images"]:
        return self.subject & self.style_yes


STATISTICS: Mapping[str, Callable[[PairVerdicts], float]] = {
    "average": lambda pair: float(pair.joint.mean()),
    "best": lambda pair: float(pair.joint.any()),
    "subject": lambda pair: float(pair.subject.mean()),
    "style": lambda pair: float(pair.style_yes.mean()),
    "attempts": lambda pair: float(np.argmax([*pair.joint, True])) + 1,
    "expected_attempts": lambda pair: (len(pair.joint) + 1) / (int(pair.joint.sum()) + 1),
}
"""Every figure of a pair, by name."""
SHARES = ("average", "best", "subject", "style")
"""Those of STATISTICS that are shares, from 0 to 1."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval, whose ends are None where too few were seen to tell."""

    estimate: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mars2:
    """MARS² of one method over all pairs."""

    average: Interval
    best: Interval
    subject: Interval
    style: Interval
    attempts: Interval
    expected_attempts: Interval
    pairs_without: int | float  # pairs of which no image passed, a mean over the runs: their attempts are a lower bound


def score(pairs: Sequence[PairVerdicts], seed: int = 0, resamples: int = RESAMPLES) -> Mars2:
    """Return all figures with intervals; a pair may be there once a run. Raises InputError without pairs."""
    found = {name: crossed(figures(pairs, name), seed, resamples) for name in STATISTICS}
    count = sum(1 - best for best in figures(pairs, "best").values())
    return Mars2(**found, pairs_without=int(count) if float(count).is_integer() else count)


def difference(first: Sequence[PairVerdicts], second: Sequence[PairVerdicts], statistic: str = "average") -> Interval:
    """Return `first` − `second` of one of SHARES, pair by pair, with the interval over contents and styles.

    There is none with one content or one style alone, nor where no content and no style differs from the others: it
    would say nothing of others. Raises InputError when the two were not judged on the same pairs, or for an unknown
    share.
    """
    if statistic not in SHARES:
        raise InputError(f"unknown share {statistic!r}; valid are {', '.join(SHARES)}")
    if Counter(pair.name for pair in first) != Counter(pair.name for pair in second):
        raise InputError("a difference needs two methods judged on the same pairs; evaluate both on one dataset split")
    taken = figures(second, statistic)
    values = {name: value - taken[name] for name, value in figures(first, statistic).items()}
    table, mean = _table(values), fmean(values.values())
    if min(table.shape) < 2:
        return Interval(mean)
    low, high = crossed_interval(table)
    if high - low < NO_WIDTH:
        return Interval(mean)
    return Interval(mean, max(low, -1.0), min(high, 1.0))


def crossed(values: Mapping[tuple[str, str], float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean of one value a pair, by content and style, with its interval; InputError without values.

    There is no interval with one content or one style alone, nor where all pairs have one value: it would say nothing
    of others.
    """
    if not values:
        raise InputError("there are no pairs to score; evaluate at least one content and one style")
    table, mean = _table(values), fmean(values.values())
    if min(table.shape) < 2 or len(set(values.values())) == 1:
        return Interval(mean)
    return Interval(mean, *quantiles(crossed_draws(table, draws=resamples, seed=seed)))


def _table(values: Mapping[tuple[str, str], float]) -> Float[np.ndarray, "contents styles"]:
    """Return values by content and style, in the order of their names; NaN where a pair is not there."""
    contents, styles = (sorted(set(names)) for names in zip(*values, strict=True))
    table = np.full((len(contents), len(styles)), np.nan)
    for (content, style), value in values.items():
        table[contents.index(content), styles.index(style)] = value
    return table


def bootstrap(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean of independent values, such as one a LoRA, with its percentile interval, drawn by `seed`.

    A single value has none.
    """
    if len(values) < 2:
        return Interval(fmean(values))
    return Interval(fmean(values), *bootstrap_interval(np.asarray(values), draws=resamples, seed=seed))


def figures(pairs: Sequence[PairVerdicts], statistic: str) -> dict[tuple[str, str], float]:
    """Return a figure of STATISTICS for each pair; its mean over the runs where a pair is there several times."""
    return means_by_name((pair.name for pair in pairs), map(STATISTICS[statistic], pairs))


def means_by_name(names: Iterable[Name], values: Iterable[float]) -> dict[Name, float]:
    """Return the mean of each name's values, in the order in which the names first come.

    Intervals are drawn over these means, of pairs or of LoRAs: what shares its LoRAs is no sample of its own.
    """
    found: dict[Name, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(name, []).append(value)
    return {name: fmean(of_name) for name, of_name in found.items()}
