"""Turn what the judge's network sees in two images into P(yes), and calibrate that. Numpy alone.

**Subject.** For each detail of the subject, the odds that both images show the same value against their being
unrelated: L = k Σ_v p(v) q(v), for beliefs p and q over k values. L is 1 where an image says nothing, k where both are
sure and agree, near 0 where they are sure and differ. With the share ρ of pairs that agree in a detail, P(agree) =
ρL / (ρL + 1 − ρ). P(yes) = σ(b + Σ w log P(agree)), so one wrong detail is enough for a no.

**Style.** P(yes) = σ(a cos + b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Beliefs = Mapping[str, Float[np.ndarray, "n _"]]
"""Detail → rows of probabilities."""

EVIDENCE: Mapping[str, float] = {"kind": 0.1, "body": 0.8, "second": 0.8, "marking": 0.8, "accessory": 0.8}
"""The share ρ of pairs that is taken to agree, by detail.

The share of the kind is low, because a kind that the judge can't recognise must count as a difference: such an image
does not show the subject.
"""

FLOOR = 0.02  # of every belief is spread over all values: no image is surer than that
PENALTY = 1e-3  # of the squared coefficients: keeps them finite where the cases are separable


@dataclass(frozen=True)
class Calibration:
    """The coefficients of P(yes): one weight per evidence and a bias; a slope and a bias."""

    subject: tuple[float, ...]
    style: tuple[float, float]


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Return beliefs from logits, with FLOOR."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (1 - FLOOR) * powers / powers.sum(1, keepdims=True) + FLOOR / logits.shape[1]


def evidence(reference: Beliefs, test: Beliefs) -> Float[np.ndarray, "n e"]:
    """Return log P(agree) of every row's pair, in the order of EVIDENCE."""
    columns = []
    for name, share in EVIDENCE.items():
        painted = f"{name}_colour" in reference
        odds = _painted(reference, test, name) if painted else _odds(reference[name], test[name])
        columns.append(np.log(share * odds / (share * odds + 1 - share)))
    return np.stack(columns, axis=1)


def _odds(first: Float[np.ndarray, "n k"], second: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    return first.shape[1] * (first * second).sum(1)


def _painted(first: Beliefs, second: Beliefs, name: str) -> Float[np.ndarray, " n"]:
    """Return the odds of a detail with a colour of its own. Its first value (plain, none) has no colour to agree in."""
    agreed = first[name].shape[1] * first[name] * second[name]
    return agreed[:, 0] + agreed[:, 1:].sum(1) * _odds(first[f"{name}_colour"], second[f"{name}_colour"])


def sigmoid(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return 0.5 * (1 + np.tanh(0.5 * x))


def probability(columns: Float[np.ndarray, "n e"], coefficients: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Return σ(columns · weights + bias); the bias is the last coefficient."""
    return sigmoid(columns @ np.array(coefficients[:-1]) + coefficients[-1])


def fit(
    columns: Float[np.ndarray, "n e"], yes: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> list[float]:
    """Fit a weighted logistic regression with weights ≥ 0, then move its bias to where both errors are equal."""
    from scipy.optimize import minimize

    rows = np.concatenate([columns, np.ones((len(columns), 1))], axis=1).astype(np.float64)
    signs, shares = np.where(yes, 1.0, -1.0), weights / weights.sum()

    def loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (rows @ coefficients)
        value = shares @ np.logaddexp(0, -margins) + PENALTY * coefficients @ coefficients
        gradient = -(rows * (signs * shares * sigmoid(-margins))[:, None]).sum(0) + 2 * PENALTY * coefficients
        return float(value), gradient

    limits = [(0.0, None)] * columns.shape[1] + [(None, None)]
    found = minimize(loss, np.zeros(rows.shape[1]), jac=True, bounds=limits, method="L-BFGS-B").x
    scores = rows @ found
    found[-1] -= equal_error_threshold(scores, yes, weights)
    return [float(value) for value in found]


def equal_error_threshold(
    scores: Float[np.ndarray, " n"], yes: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    """Return the threshold at which the weighted share of refused yeses is nearest that of accepted noes."""
    order = np.argsort(scores)
    ascending, is_yes, share = scores[order], yes[order], weights[order]
    # Entry i: the threshold lies between scores i-1 and i, so the first i are refused.
    refused = np.concatenate([[0.0], np.cumsum(share * is_yes)]) / (share * is_yes).sum()
    accepted = 1 - np.concatenate([[0.0], np.cumsum(share * ~is_yes)]) / (share * ~is_yes).sum()
    cut = int(np.argmin(np.abs(refused - accepted)))
    edges = np.concatenate([[ascending[0] - 1], ascending, [ascending[-1] + 1]])
    return float((edges[cut] + edges[cut + 1]) / 2)
