"""MARS² on cases made by hand, and intervals against exact distributions and simulated tables."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from lorarar.errors import InputError
from lorarar.evaluation.mars2 import Interval, PairVerdicts, bootstrap, difference, majority, score
from lorarar.intervals import crossed_draws, crossed_interval, quantiles

SHARED = (lambda i, j: i[0] == j[0], lambda i, j: i[1] == j[1], lambda i, j: i == j)


def pair(joint: str, content: str = "dog", style: str = "neon") -> PairVerdicts:
    """A pair from one letter an image: `b`oth, `s`ubject only, `t`echnique (style) only, `n`either."""
    subject = np.array([[letter in "bs"] * 3 for letter in joint])
    return PairVerdicts(content, style, subject, np.array([letter in "bt" for letter in joint]))


@pytest.mark.parametrize(
    ("yes", "passes"),
    [([1], True), ([0], False), ([1, 0], False), ([1, 1, 0, 0], False), ([1, 1, 0], True), ([1, 1, 1, 0, 0], True)],
)
def test_more_than_half_of_the_references(yes: list[int], passes: bool) -> None:
    assert majority(np.array([yes], bool)).tolist() == [passes]


@given(st.integers(1, 9), st.data())
def test_majority_is_a_share_above_one_half(references: int, data: st.DataObject) -> None:
    said = data.draw(st.integers(0, references))
    assert majority(np.arange(references)[None] < said)[0] == (said / references > 0.5)


def test_no_references_is_told() -> None:
    with pytest.raises(InputError, match="without reference images"):
        majority(np.zeros((2, 0), bool))


def test_average_best_and_attempts_by_hand() -> None:
    result = score([pair("stbb"), pair("nnnn", "cat"), pair("bnnn", "can"), pair("ttsb", "cup")])
    assert result.average.estimate == pytest.approx((2 + 0 + 1 + 1) / 16)
    assert result.best.estimate == pytest.approx(3 / 4)
    assert result.subject.estimate == pytest.approx((3 + 0 + 1 + 2) / 16)
    assert result.style.estimate == pytest.approx((3 + 0 + 1 + 3) / 16)
    # positions of the first accepted image, and N + 1 = 5 for the pair that has none
    assert result.attempts.estimate == pytest.approx((3 + 5 + 1 + 4) / 4)
    assert result.expected_attempts.estimate == pytest.approx((5 / 3 + 5 + 5 / 2 + 5 / 2) / 4)
    assert result.pairs_without == 1


def test_runs_of_a_pair_are_no_samples_of_their_own() -> None:
    """Three runs that say the same give one run's intervals; differences are taken pair by pair over the runs' mean."""
    once = [pair("stbb"), pair("nnnn", "cat"), pair("bnnn", "can"), pair("ttsb", "cup")]
    assert score(once * 3) == score(once)
    other = [pair("bbbb", "cat"), pair("nnbb"), pair("nnnn", "can"), pair("nnnn", "cup")]
    assert difference(once * 3, other * 3) == difference(once, list(reversed(other)))
    mixed = score([pair("bb"), pair("nn", "cat"), pair("nn"), pair("bn", "cat")])
    assert (mixed.average.estimate, mixed.best.estimate) == (0.375, 0.5)
    assert mixed.pairs_without == 1  # one of the two pairs in each run
    found = difference([pair("bb"), pair("nn")], [pair("nn"), pair("bn")])
    assert found.estimate == (1 + 0) / 2 - (0 + 0.5) / 2
    with pytest.raises(InputError, match="judged on the same pairs"):
        difference(once * 2, once)


def test_subject_and_style_on_different_images_do_not_add_up() -> None:
    result = score([pair("st")])
    assert (result.subject.estimate, result.style.estimate, result.best.estimate) == (0.5, 0.5, 0.0)


def test_all_no_and_all_yes_say_nothing_of_other_pairs() -> None:
    no, yes = (
        score([pair(joint, *names) for names in product(("dog", "cat"), ("neon", "ink"))]) for joint in ("nn", "bb")
    )
    assert (no.average, no.attempts.estimate) == (Interval(0.0), 3)
    assert (yes.average, yes.attempts.estimate) == (Interval(1.0), 1)


@settings(max_examples=30)
@given(st.integers(1, 7), st.data())
def test_expected_attempts_is_the_mean_over_all_orders(images: int, data: st.DataObject) -> None:
    accepted = data.draw(st.integers(0, images))
    one = pair("b" * accepted + "n" * (images - accepted))
    expected = score([one], resamples=1).expected_attempts.estimate
    orders = np.random.default_rng(0).permuted(np.tile(one.joint, (4000, 1)), axis=1)
    firsts = np.where(orders.any(axis=1), orders.argmax(axis=1) + 1, images + 1)
    assert expected == pytest.approx(np.mean(firsts), abs=0.15)


def binomial_quantile(count: int, probability: float, level: float) -> float:
    total = 0.0
    for hits in range(count + 1):
        total += math.comb(count, hits) * probability**hits * (1 - probability) ** (count - hits)
        if total >= level:
            return hits / count
    return 1.0


def test_bootstrap_of_ones_and_zeros_is_the_binomial() -> None:
    values = np.array([1.0] * 12 + [0.0] * 8)
    interval = bootstrap(values.tolist(), seed=1, resamples=40_000)
    assert interval.estimate == 0.6
    assert interval.low == pytest.approx(binomial_quantile(20, 0.6, 0.025))
    assert interval.high == pytest.approx(binomial_quantile(20, 0.6, 0.975))


def test_bootstrap_spread_is_the_standard_error() -> None:
    values = np.random.default_rng(5).normal(3, 2, 400)
    interval = bootstrap(values.tolist(), resamples=20_000)
    error = values.std() / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_seed_decides_the_interval() -> None:
    values = (np.linspace(0, 1, 17) ** 2).tolist()
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3, resamples=200) != bootstrap(values, seed=4, resamples=200)


def test_crossed_draws_are_all_resamples_of_rows_and_columns() -> None:
    """Against every one of the 2² · 2² equally likely resamples of a table of two subjects and two styles."""
    table = np.array([[0.1, 0.9], [0.4, np.nan]])
    chosen = list(product(range(2), repeat=2))
    means = [
        np.nanmean(table[np.ix_(rows, columns)])
        for rows in chosen
        for columns in chosen
        if (rows, columns) != ((1, 1), (1, 1))
    ]
    drawn = crossed_draws(table, draws=60_000, seed=2)
    assert len(drawn) == pytest.approx(60_000 * len(means) / 16, rel=0.01)
    for value in sorted(set(means)):
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(np.mean(np.isclose(means, value)), abs=0.01)


def test_intervals_hold_for_other_subjects_and_styles() -> None:
    """Drawn tables of a content's, a style's and a pair's part: the interval over both has the true mean, 0, in 95 %
    of them or a little more; one that took pairs for independent would have it in far fewer.
    """
    random = np.random.default_rng(0)
    hits = np.zeros(2)
    for seed in range(400):
        table = random.normal(0, 1, (8, 1)) + random.normal(0, 1, (1, 8)) + random.normal(0, 2, (8, 8))
        low, high = quantiles(crossed_draws(table, draws=400, seed=seed))
        naive = bootstrap(table.ravel().tolist(), seed, 400)
        hits += [low < 0 < high, naive.low < 0 < naive.high]
    assert hits[0] / 400 > 0.93
    assert hits[1] / 400 < 0.75


@pytest.mark.parametrize(("size", "least", "most"), [(5, 0.89, 0.93), (10, 0.9, 0.94), (24, 0.93, 0.97)])
def test_intervals_of_shares_need_many_subjects_and_styles(size: int, least: float, most: float) -> None:
    """Ten images a pair, of a mean share of 0.5. docs/results.md tells it of the 5 × 5 pairs."""
    random, hits = np.random.default_rng(2), np.zeros(2)
    for seed in range(400):
        logits = random.normal(0, 1.5, (size, 1)) + random.normal(0, 1.5, (1, size))
        shares = random.binomial(10, 1 / (1 + np.exp(-logits))) / 10
        low, high = quantiles(crossed_draws(shares, draws=400, seed=seed))
        student = crossed_interval(shares)
        hits += np.array([low <= 0.5 <= high, student[0] <= 0.5 <= student[1]])
    assert least < hits[0] / 400 < most and hits[1] / 400 > 0.93


@pytest.mark.parametrize(("part", "share"), [(0.0, 0.8), (0.4, 0.95)])
def test_intervals_of_differences_hold_and_are_narrower(part: float, share: float) -> None:
    """Two methods that are equally good, one answer a pair: 0 is within the interval for 95 % of such tables, whether
    subjects and styles matter (`part`) or not; drawn ones have it more often and are wider for it (their `share`).
    """
    random, hits, widths = np.random.default_rng(1), np.zeros(2), np.zeros(2)
    for seed in range(400):
        shared = random.normal(-1, 1, (16, 1)) + random.normal(0, 1, (1, 16))
        parts = [random.normal(0, part, (16, 1)) + random.normal(0, part, (1, 16)) for _ in range(2)]
        first, second = (random.random((16, 16)) < 1 / (1 + np.exp(-shared - own)) for own in parts)
        for place, (low, high) in enumerate(
            (
                crossed_interval(1.0 * first - second),
                quantiles(crossed_draws(1.0 * first - second, draws=400, seed=seed)),
            )
        ):
            hits[place] += low <= 0 <= high
            widths[place] += high - low
    assert 0.93 < hits[0] / 400 <= hits[1] / 400
    assert widths[0] < share * widths[1]


def test_an_interval_of_rows_alone_is_students() -> None:
    """Columns that agree add nothing: the interval is that of the rows' means, by SciPy; and so for rows."""
    values = np.array([0.1, 0.9, 0.4, 0.3])
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    for table in (np.tile(values[:, None], 6), np.tile(values[:, None], 1), np.tile(values, (6, 1))):
        assert crossed_interval(table) == pytest.approx((expected.low, expected.high))


def test_a_crossed_variance_sums_over_values_that_share_a_row_or_a_column() -> None:
    """Against its definition: products of all two values that share a subject or a style; missing values are none."""
    table = np.random.default_rng(3).normal(0, 0.2, (3, 4)) + np.array([[1.0], [0.0], [-1.0]]) + np.arange(4) / 2
    table[1, 2] = np.nan
    rest = {place: value - np.nanmean(table) for place, value in np.ndenumerate(table) if not np.isnan(value)}
    sums = [sum(a * b for i, a in rest.items() for j, b in rest.items() if same(i, j)) for same in SHARED]
    variance = (sums[0] * 3 / 2 + sums[1] * 4 / 3 - sums[2]) / 11**2
    low, high = crossed_interval(table)
    assert (low + high) / 2 == pytest.approx(np.nanmean(table))
    assert (high - low) / 2 == pytest.approx(student.ppf(0.975, 2) * math.sqrt(variance))


def test_a_score_draws_contents_and_styles() -> None:
    """Eight styles of two contents, one always right: no more than two contents say so."""
    found = score(
        [pair("b" if content == "dog" else "n", content, f"s{k}") for content in ("dog", "cat") for k in range(8)]
    )
    assert (found.average.estimate, found.average.low, found.average.high) == (0.5, 0, 1)


def test_intervals_are_by_pair_and_not_by_image() -> None:
    # 40 images that agree within their subject are 2 observations, so the interval spans everything.
    result = score([pair(10 * joint, *names) for joint, *names in ("bai", "baj", "nci", "ncj")])
    assert (result.average.low, result.average.high) == (0, 1)


def test_one_subject_or_one_style_says_nothing_of_others() -> None:
    for pairs in ([pair("bn")], [pair("bn"), pair("bb", "cat")], [pair("bn"), pair("bb", "dog", "ink")]):
        found, less = score(pairs).average, difference(pairs, [pair("nn", *each.name) for each in pairs])
        assert found.estimate == less.estimate > 0
        assert {found.low, found.high, less.low, less.high} == {None}
    assert bootstrap([0.5]).low is None


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    hard_to_easy = range(10)
    names = [(k, f"s{style}") for k in hard_to_easy for style in range(10)]
    worse = [pair("b" * k + "n" * (11 - k), f"c{k}", style) for k, style in names]
    better = [pair("b" * (k + 1 + k % 2) + "n" * (10 - k - k % 2), f"c{k}", style) for k, style in names]
    low, high = score(better).average.low, score(worse).average.high
    assert low is not None and high is not None and low < high
    found = difference(better, list(reversed(worse)))
    assert found.estimate == pytest.approx(1.5 / 11)
    assert found.low is not None and found.low > 0
    assert difference(worse, better).high == pytest.approx(-found.low)


@pytest.mark.parametrize("passed", ["nnnn", "bbbb", "bnnb", "bbnb"])
def test_a_difference_that_no_subject_and_no_style_changes_says_nothing_of_others(passed: str) -> None:
    """Its variance is 0, and an interval without a width would call it clear; the last one's is not."""
    names = [(content, style) for content in ("cat", "dog") for style in ("ink", "neon")]
    drawn = [pair(joint, *name) for joint, name in zip(passed, names, strict=True)]
    found = difference(drawn, [pair("n", *name) for name in names])
    assert found.estimate == passed.count("b") / 4
    assert (found.low is None) == (found.high is None) == (passed != "bbnb")


def test_errors() -> None:
    with pytest.raises(InputError, match="same pairs"):
        difference([pair("b")], [pair("b", "cat")])
    with pytest.raises(InputError, match="unknown share 'attempts'; valid are average, best"):
        difference([pair("b")], [pair("b")], "attempts")
    with pytest.raises(InputError, match="no pairs to score"):
        score([])
    with pytest.raises(InputError, match="1 subject verdicts and 2 style verdicts"):
        PairVerdicts("dog", "neon", np.ones((1, 4), bool), np.ones(2, bool))
