"""What the miniature's judge is made of, without training one: subjects and details, losses, verdicts by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature import judge_verdicts
from miniature.catalogue import CATALOGUE, fresh_subject, near_catalogue
from miniature.gallery import GALLERY
from miniature.judge_data import CHANGEABLE, UNSEEN, changed, details_of
from miniature.judge_network import DETAILS
from miniature.judge_training import contrastive_loss, detail_loss
from miniature.judge_trials import AS_DRAWN, CaseCount, accuracy, random_settings
from miniature.judge_verdicts import EVIDENCE, equal_error_threshold, evidence, fit, probability

# Subjects, and what a drawing shows of them


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 4))
def test_a_changed_subject_differs_in_so_many_visible_details(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    subject = fresh_subject(rng)
    other = changed(subject, rng, count)
    looks = [look for looks in CHANGEABLE.values() for look in looks]
    differing = {look for look in looks if getattr(subject, look) != getattr(other, look)}
    assert len(differing) == count == sum(1 for looks in CHANGEABLE.values() if differing & set(looks))
    assert (other.kind, other.shape) == (subject.kind, subject.shape)
    assert subject.marking != "plain" or "marking_colour" not in differing
    assert subject.accessory != "none" or "accessory_colour" not in differing
    # Every difference is one that drawings show: those values of details that both have are that many apart.
    assert sum(a != b for a, b in zip(details_of(subject), details_of(other), strict=True)) >= count


def test_held_out_subjects_are_not_sampled() -> None:
    rng = np.random.default_rng(0)
    assert not any(near_catalogue(fresh_subject(rng, kind)) for kind in ("dog", "cat") for _ in range(200))


def test_details_of_a_catalogue_subject() -> None:
    said = dict(zip(DETAILS, details_of(CATALOGUE["cat_4"].subject), strict=True))
    names = {name: DETAILS[name][value] for name, value in said.items() if value != UNSEEN}
    assert names == {
        "kind": "cat",
        "body": "purple",
        "second": "lime",
        "marking": "zigzag",
        "marking_colour": "yellow",
        "accessory": "none",
    }


def test_calibration_settings_are_not_the_held_out_ones() -> None:
    made = random_settings(0, 52)
    assert {setting.style_name for setting in made} == {style.family for style in GALLERY.values()} | {
        setting.style.family for setting in made
    }
    assert not any(setting.style in GALLERY.values() or near_catalogue(setting.subject) for setting in made)


# Losses


def test_detail_loss_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, sum(map(len, DETAILS.values())), generator=generator)
    details = torch.tensor([details_of(entry.subject) for entry in list(CATALOGUE.values())[8:11]])
    expected, first = 0.0, 0
    for column, values in enumerate(DETAILS.values()):
        for row in range(3):
            wanted = int(details[row, column])
            beliefs = logits[row, first : first + len(values)].softmax(0)
            expected -= 0.0 if wanted == UNSEEN else float(beliefs[wanted].log()) / 3
        first += len(values)
    assert (details == UNSEEN).any()
    assert float(detail_loss(logits, details)) == pytest.approx(expected, rel=1e-5)


def test_contrastive_loss_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    style = torch.nn.functional.normalize(torch.randn(5, 6, generator=generator), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 1])
    terms = []
    for row in range(5):
        others = [other for other in range(5) if other != row]
        total = sum(float((style[row] @ style[other] / 0.1).exp()) for other in others)
        same = [other for other in others if labels[other] == labels[row]]
        terms.append(-np.mean([np.log(float((style[row] @ style[other] / 0.1).exp()) / total) for other in same]))
    assert float(contrastive_loss(style, labels)) == pytest.approx(float(np.mean(terms)), rel=1e-4)


# Verdicts by hand


def random_beliefs(seed: int, count: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.dirichlet(np.full(len(values), 0.3), count) for name, values in DETAILS.items()}


def test_evidence_by_enumeration() -> None:
    """The odds from all values (and colours) that both images can show."""
    first, second = random_beliefs(0), random_beliefs(1)
    found = evidence(first, second)
    for column, (name, share) in enumerate(EVIDENCE.items()):
        for row in range(5):
            p, q = first[name][row], second[name][row]
            values = len(p)
            if name in ("marking", "accessory"):
                a, b = first[f"{name}_colour"][row], second[f"{name}_colour"][row]
                odds = values * p[0] * q[0]
                for value, colour in product(range(1, values), range(len(a))):
                    joint = p[value] * a[colour] * q[value] * b[colour]
                    odds += joint * values * len(a)
            else:
                odds = sum(values * p[value] * q[value] for value in range(values))
            assert found[row, column] == pytest.approx(np.log(share * odds / (share * odds + 1 - share)))


def test_unknown_colours_are_no_evidence_and_wrong_ones_are() -> None:
    def beliefs(body: int | None) -> dict[str, np.ndarray]:
        rows = {name: np.full((1, len(values)), 1 / len(values)) for name, values in DETAILS.items()}
        if body is not None:
            rows["body"] = judge_verdicts.softmax(np.where(np.arange(14) == body, 20.0, 0.0)[None])
        return rows

    column = list(EVIDENCE).index("body")
    same, unknown, wrong = (np.exp(evidence(beliefs(3), beliefs(body))[0, column]) for body in (3, None, 4))
    assert unknown == pytest.approx(EVIDENCE["body"])
    assert same > 0.95
    assert wrong < 0.2


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_the_threshold_makes_both_errors_equal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 40))
    yes = np.arange(count) < rng.integers(1, count - 1)
    scores, weights = rng.normal(size=count) + yes, rng.uniform(0.5, 2, count)

    def gap(threshold: float) -> float:
        refused = weights[yes & (scores < threshold)].sum() / weights[yes].sum()
        accepted = weights[~yes & (scores >= threshold)].sum() / weights[~yes].sum()
        return abs(refused - accepted)

    best = min(gap(threshold) for threshold in [*scores, scores.max() + 1])
    assert gap(equal_error_threshold(scores, yes, weights)) == pytest.approx(best)


def test_fit_finds_the_coefficients_that_made_the_answers() -> None:
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(20_000, 3))
    yes = rng.random(20_000) < probability(columns, (1.5, 0.0, 0.7, 0.0))
    found = fit(columns, yes, np.ones(20_000))
    assert found[:3] == pytest.approx([1.5, 0.0, 0.7], abs=0.12)
    assert found[3] == pytest.approx(0.0, abs=0.15)
    assert min(fit(-columns, yes, np.ones(20_000))[:3]) >= 0


# The report


def test_accuracy_is_over_all_styles() -> None:
    rows = [CaseCount("style", "plain", name, AS_DRAWN, right, 4) for name, right in (("a", 4), ("b", 1))]
    assert accuracy(rows)["style"]["plain"][AS_DRAWN] == 5 / 8
