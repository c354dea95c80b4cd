"""Confidence intervals: the percentile bootstrap over clusters, and Wilson's for a share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
AT_ONCE = 2**20  # numbers


def bootstrap_interval(
    hits: Float[np.ndarray, " n"], totals: Float[np.ndarray, " n"] | None = None, *, draws: int, seed: int
) -> tuple[float, float]:
    """Return the percentile interval of sum(hits)/sum(totals), with whole rows drawn again; without totals of the mean.

    A row is a cluster of answers that are not independent: a pair of LoRAs, a participant, a task. The same seed gives
    the same interval.
    """
    return quantiles(bootstrap_draws(hits, totals, draws=draws, seed=seed))


def bootstrap_draws(
    hits: Float[np.ndarray, " n"], totals: Float[np.ndarray, " n"] | None = None, *, draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """Return `draws` resampled values of sum(hits)/sum(totals), or of the mean; see `bootstrap_interval`."""
    generator, count = np.random.default_rng(seed), len(hits)
    parts = []
    # Some draws at a time: all at once of 10,000 participants would take a gigabyte. The numbers are the same.
    for first in range(0, draws, at_once := max(1, AT_ONCE // count)):
        rows = generator.integers(0, count, (min(at_once, draws - first), count))
        drawn = hits[rows].mean(axis=1) if totals is None else hits[rows].sum(axis=1) / totals[rows].sum(axis=1)
        parts.append(np.asarray(drawn, np.float64))
    return np.concatenate(parts)


def quantiles(values: Float[np.ndarray, " n"], level: float = LEVEL) -> tuple[float, float]:
    """Return the two ends of the middle `level` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(count: int, total: int) -> tuple[float, float] | None:
    """Return Wilson's score interval of the share count/total; None where `total` is 0."""
    from scipy.stats import binomtest

    if total == 0:
        return None
    found = binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)
