"""Random numbers (MIL's random). A program's seed gives the same numbers every time, and other ones than Core ML's."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
Number = np.ndarray | float


def random_bernoulli(shape: Array, prob: Number = 0.5, seed: Array | int = -1) -> Array:
    """Return ones with a probability, and zeros."""
    return (_generator(seed).random(shape.tolist()) < float(prob)).astype(np.float32)


def random_normal(shape: Array, mean: Number = 0.0, stddev: Number = 1.0, seed: Array | int = -1) -> Array:
    """Return numbers of a normal distribution."""
    return (_generator(seed).standard_normal(shape.tolist()) * float(stddev) + float(mean)).astype(np.float32)


def random_uniform(shape: Array, low: Number = 0.0, high: Number = 1.0, seed: Array | int = -1) -> Array:
    """Return numbers that are equally likely from `low` to just below `high`."""
    return (_generator(seed).random(shape.tolist()) * (float(high) - float(low)) + float(low)).astype(np.float32)


def random_categorical(x: Array, mode: str = "logits", size: Array | int = 1, seed: Array | int = -1) -> Array:
    """Draw indices of the last axis with replacement, by their probabilities or the logarithms of these."""
    if mode not in ("logits", "probs"):
        raise ValueError(f"its mode {mode!r} is none of the spec's")
    weights = np.exp(x - x.max(-1, keepdims=True)) if mode == "logits" else x
    ends = np.cumsum(weights, -1, dtype=np.float64)
    drawn = _generator(seed).random((*x.shape[:-1], int(size))) * ends[..., -1:]
    chosen = (drawn[..., None] >= ends[..., None, :]).sum(-1)
    return np.minimum(chosen, x.shape[-1] - 1).astype(np.float32)


def _generator(seed: Array | int) -> np.random.Generator:
    return np.random.default_rng(int(seed) if int(seed) >= 0 else None)
