"""The human study's numbers, on answers made by hand, and its report files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from human_study.definition import Example, Study, Task
from human_study.report import FILES, to_markdown, write_report
from human_study.store import Answer
from human_study.summary import cluster_bootstrap, only_complete, summarise
from lorarar.intervals import wilson_interval

A, B = "learned", "ziplora"


def study(tasks: int = 4, accepted: tuple[tuple[bool, bool], ...] | None = None, case: str = "random") -> Study:
    """A study without image files; `accepted` has the verdicts on A's and B's image of each task."""
    none = Path("none.png")
    listed = tuple(
        Task(
            f"t{number}",
            none,
            none,
            {A: none, B: none},
            None if accepted is None else dict(zip((A, B), accepted[number], strict=True)),
        )
        for number in range(tasks)
    )
    return Study(Path(), "Which?", case, 0, (A, B), Example(none, none, (none, none), 2, "Why."), listed)


def answers(*given: str, first: str = A) -> list[Answer]:
    """Each argument is one participant's answers, a letter a task: A, B, or s for similar."""
    made = []
    second = B if first == A else A
    for participant, letters in enumerate(given, 1):
        for number, letter in enumerate(letters):
            preferred = {"A": A, "B": B, "s": None}[letter]
            choice = "similar" if preferred is None else "option1" if preferred == first else "option2"
            made.append(Answer(participant, number, f"t{number}", first, second, choice, preferred, 2.0 + number, 0))
    return made


def test_counts_and_shares_by_hand() -> None:
    summary = summarise(study(), answers("AAsB", "AsAB", "A"))
    assert [share.count for share in summary.shares] == [5, 2, 2, 7]
    assert [share.share for share in summary.shares] == pytest.approx([5 / 9, 2 / 9, 2 / 9, 7 / 9])
    assert (summary.participants, summary.complete, summary.answers, summary.tasks) == (3, 2, 9, 4)
    assert summary.median_seconds == 3.0
    assert summary.first_option == (5, 7)
    assert summary.agreement is None


def test_shares_do_not_depend_on_the_side() -> None:
    """The method counts, not the option that it was."""
    left, right = (summarise(study(), answers("AAsB", "AsAB", first=first)) for first in (A, B))
    assert left.shares == right.shares
    assert (left.first_option, right.first_option) == ((4, 6), (2, 6))


def test_only_complete_drops_who_stopped_early() -> None:
    given = answers("AAsB", "A", "ssss", "BBB")
    assert {answer.participant for answer in only_complete(study(), given)} == {1, 3}


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (5, 10, 0.236593, 0.763407), (81, 263, 0.255286, 0.366206)],
)
def test_wilson_against_published_values(count: int, total: int, low: float, high: float) -> None:
    """81 of 263 is Newcombe's (1998) example, his method 3; the others follow from the formula by hand."""
    assert wilson_interval(count, total) == pytest.approx((low, high), abs=1e-4)


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_solves_its_equation(total: int, share: float) -> None:
    """Its ends are where the score test just rejects: |p̂ − p| = z √(p (1 − p) / n)."""
    count = round(share * total)
    interval = wilson_interval(count, total)
    assert interval is not None
    for end in interval:
        distance = abs(count / total - end)
        assert distance == pytest.approx(1.959963984540054 * math.sqrt(max(end * (1 - end), 0) / total), abs=1e-9)


def test_bootstrap_matches_theory_for_equal_clusters() -> None:
    """The mean of 40 independent cluster means: a normal interval, to the sampling error of both."""
    generator = np.random.default_rng(1)
    hits = generator.binomial(10, generator.uniform(0.2, 0.8, 40))
    interval = cluster_bootstrap(hits, np.full(40, 10), seed=0)
    assert interval is not None
    half = 1.96 * hits.std() / 10 / math.sqrt(40)
    assert interval == pytest.approx((hits.mean() / 10 - half, hits.mean() / 10 + half), abs=0.01)


def test_clusters_that_agree_within_widen_the_interval() -> None:
    """Ten people, each of one mind: Wilson takes their 100 answers as independent and is far too narrow."""
    summary = summarise(study(10), answers(*["A" * 10] * 5, *["B" * 10] * 5))
    share = summary.shares[0]
    assert share.share == 0.5 and share.by_participants is not None and share.wilson is not None
    assert share.by_participants[1] - share.by_participants[0] > 2.5 * (share.wilson[1] - share.wilson[0])
    # All tasks got the same answers: drawing tasks again changes nothing.
    assert share.by_tasks == (0.5, 0.5)


def test_one_participant_has_no_interval_over_participants() -> None:
    share = summarise(study(), answers("AAsB")).shares[0]
    assert share.by_participants is None
    assert share.by_tasks is not None and share.wilson is not None


def test_the_bootstrap_is_reproducible() -> None:
    hits, totals = np.arange(40) % 11, np.full(40, 10)
    assert cluster_bootstrap(hits, totals, seed=3) == cluster_bootstrap(hits, totals, seed=3)
    assert len({cluster_bootstrap(hits, totals, seed=seed) for seed in range(8)}) > 1


def test_agreement_with_mars2_by_hand() -> None:
    # MARS² says: A, B, similar (both accepted), similar (neither).
    verdicts = ((True, False), (False, True), (True, True), (False, False))
    agreement = summarise(study(4, verdicts), answers("ABss", "AAsB")).agreement
    assert agreement is not None
    assert agreement.table.tolist() == [[2, 0, 0], [0, 3, 1], [1, 0, 1]]
    assert (agreement.same, agreement.answers) == (6, 8)
    assert (agreement.same_decided, agreement.decided) == (3, 4)
    # Mean answers 1, 0, 0, −½ against verdicts 1, −1, 0, 0: covariance 1/4, variances 19/64 and 1/2.
    assert agreement.correlation == pytest.approx(0.25 / math.sqrt(19 / 64 / 2))


def test_the_best_case_has_nothing_to_correlate() -> None:
    """Paper A1.2: both images are accepted, so that MARS² calls every pair similar."""
    agreement = summarise(study(4, ((True, True),) * 4, "best"), answers("ABss")).agreement
    assert agreement is not None
    assert (agreement.same, agreement.decided, agreement.correlation) == (2, 0, None)


def test_zero_answers_give_dashes_not_errors(tmp_path: Path) -> None:
    summary = summarise(study(4, ((True, True),) * 4), [])
    assert summary.median_seconds is None and summary.agreement is None
    assert all((share.count, share.share, share.wilson) == (0, None, None) for share in summary.shares)
    write_report(tmp_path, [summary], [[]])
    assert "No answers yet." in (tmp_path / "summary.md").read_text()
    assert "| learned preferred | 0 | – | – | – | – |" in (tmp_path / "summary.md").read_text()


def test_the_report_of_two_cases(tmp_path: Path) -> None:
    given = [answers("AAsB", "AsAB"), answers("ssBB")]
    summaries = [summarise(study(), given[0]), summarise(study(case="best"), given[1])]
    write_report(tmp_path, summaries, given)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    text = (tmp_path / "summary.md").read_text()
    assert "## learned against ziplora, random images" in text
    assert "| similar | 2 | 25.0% |" in text and "| learned preferred or similar | 6 | 75.0% |" in text
    with (tmp_path / "summary.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(row["case"], row["count"]) for row in table[3:6]] == [("random", "6"), ("best", "0"), ("best", "2")]
    assert table[4]["participants_low"] == "" and float(table[4]["wilson_high"]) > 0.4
    with (tmp_path / "answers.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    assert [row["preferred"] for row in rows[:4]] == [A, A, "similar", B]
    assert rows[2] | {"preferred": "similar", "choice": "similar", "option1": A, "task": "t2"} == rows[2]


def test_the_picture_has_bars_as_long_as_the_shares(tmp_path: Path) -> None:
    """Fig. 7: along the middle of the bar, each colour takes its share."""
    given = answers("AAAAAAAA" + "sssss" + "BBBBBBB", "A" * 20)  # 28, 5 and 7 of 40
    write_report(tmp_path, [summarise(study(20), given)], [given])
    with Image.open(tmp_path / "summary.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colors = ((0x1B, 0x6C, 0xA8), (0xC9, 0xCE, 0xD6), (0xD9, 0x83, 0x24))
    # The legend's patches have the same colours, and rows there are short: the bar's rows are the longest.
    counts = [(np.abs(pixels - color).sum(axis=2) < 12).sum(axis=1).max() for color in colors]
    assert np.array(counts) / sum(counts) == pytest.approx(np.array([28, 5, 7]) / 40, abs=0.01)


def test_names_that_would_break_a_table_are_escaped() -> None:
    odd = Study(Path(), "?", "random", 0, ("a|b", "c"), study().example, study().tasks)
    assert "| a\\|b preferred | 0 |" in to_markdown([summarise(odd, [])])


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    odd = Study(Path(), "?", "random", 0, ("a $^$ b", "c"), study().example, study().tasks)
    write_report(tmp_path, [summarise(odd, [])], [[]])
    with Image.open(tmp_path / "summary.png") as picture:
        assert picture.format == "PNG"
