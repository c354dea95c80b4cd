"""Confidence intervals: the percentile bootstrap over clusters, and Wilson's for a share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

LEVEL = 0.95


def bootstrap_interval(
    hits: Float[np.ndarray, " n"],
    totals: Float[np.ndarray, " n"] | None = None,
    *,
    draws: int,
    seed: int,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Return the percentile interval of sum(hits)/sum(totals), with whole rows drawn again; without totals of the mean.

    A row is a cluster of answers that are not independent: a pair of LoRAs, a participant, a task. The same seed gives
    the same interval.
    """
    return quantiles(bootstrap_draws(hits, totals, draws=draws, seed=seed), level)


def bootstrap_draws(
    hits: Float[np.ndarray, " n"], totals: Float[np.ndarray, " n"] | None = None, *, draws: int, seed: int
) -> Float[np.ndarray, " draws"]:
    """Return `draws` resampled values of sum(hits)/sum(totals), or of the mean; see `bootstrap_interval`."""
    rows = np.random.default_rng(seed).integers(0, len(hits), (draws, len(hits)))
    if totals is None:
        return np.asarray(hits[rows].mean(axis=1), np.float64)
    return np.asarray(hits[rows].sum(axis=1) / totals[rows].sum(axis=1), np.float64)


def quantiles(values: Float[np.ndarray, " n"], level: float = LEVEL) -> tuple[float, float]:
    """Return the two ends of the middle `level` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(count: int, total: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Return Wilson's score interval of the share count/total; None where `total` is 0."""
    from scipy.stats import binomtest

    if total == 0:
        return None
    found = binomtest(count, total).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)
