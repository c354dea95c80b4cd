"""Elementwise operations (MIL's elementwise_unary, elementwise_binary and activation)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Unary = Callable[[Array], Array]
Binary = Callable[[Array, Array], Array]


def unary(function: Callable[..., Any]) -> Unary:
    """Give a numpy function of one array MIL's parameter name."""

    def op(x: Array) -> Array:
        return np.asarray(function(x))

    return op


def binary(function: Callable[..., Any]) -> Binary:
    """Give a numpy function of two arrays, which are broadcast, MIL's parameter names."""

    def op(x: Array, y: Array) -> Array:
        return np.asarray(function(x, y))

    return op


def real_div(x: Array, y: Array) -> Array:
    """Return x / y; of integers too, which the evaluator then truncates to the declared type."""
    return np.asarray(np.true_divide(x, y))


def log(x: Array, epsilon: Array | float = 1e-45) -> Array:
    """Return ln(x + epsilon)."""
    return np.asarray(np.log(x + epsilon))


def rsqrt(x: Array, epsilon: Array | float = 1e-12) -> Array:
    """Return 1 / √(x + epsilon)."""
    return np.asarray(1 / np.sqrt(x + epsilon))


def inverse(x: Array, epsilon: Array | float = 1e-4) -> Array:
    """Return 1 / (x + epsilon)."""
    return np.asarray(1 / (x + epsilon))


def clip(x: Array, alpha: Array, beta: Array) -> Array:
    """Return x within [alpha, beta]."""
    return np.asarray(np.clip(x, alpha, beta))


def threshold(x: Array, alpha: Array) -> Array:
    """Return max(x, alpha)."""
    return np.asarray(np.maximum(x, alpha))


def cast(x: Array, dtype: str) -> Array:
    """Return x in another type: integers are truncated towards zero, floats are left to the evaluator's mode."""
    if dtype == "bool":
        return np.asarray(x != 0)
    return x if dtype.startswith("fp") else x.astype(dtype)


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e⁻ˣ), by way of tanh, which overflows nowhere."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def silu(x: Array) -> Array:
    """Return x · sigmoid(x)."""
    return np.asarray(x / (1 + np.exp(-x)))


def softplus(x: Array) -> Array:
    """Return ln(1 + eˣ)."""
    return np.asarray(np.logaddexp(x, np.zeros((), x.dtype)))


def leaky_relu(x: Array, alpha: Array) -> Array:
    """Return x, or alpha · x where it is negative."""
    return np.where(x >= 0, x, alpha * x)


def elu(x: Array, alpha: Array) -> Array:
    """Return x, or alpha · (eˣ - 1) where it is not positive."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def linear_activation(x: Array, alpha: Array, beta: Array) -> Array:
    """Return alpha · x + beta."""
    return np.asarray(alpha * x + beta)


def sigmoid_hard(x: Array, alpha: Array, beta: Array) -> Array:
    """Return alpha · x + beta within [0, 1]."""
    return np.clip(alpha * x + beta, 0, 1)


def prelu(x: Array, alpha: Array) -> Array:
    """Return leaky_relu with one alpha a channel (axis 1)."""
    return leaky_relu(x, alpha.reshape(-1, *[1] * (x.ndim - 2)))


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Return the Gaussian error linear unit: exact, or one of its two usual approximations."""
    if mode == "EXACT":
        return np.asarray((0.5 * x) * _erfc(x, -math.sqrt(0.5)))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x * sigmoid(1.702 * x))
    raise ValueError(f"its mode {mode!r} is none of the spec's")


def erf(x: Array) -> Array:
    """Return the error function."""
    return 1 - _erfc(x, 1.0)


def _erfc(x: Array, factor: float) -> Array:
    """Return 1 - erf(factor · x), computed in float64: far out, a rounded argument alone would cost digits."""
    # Imported here: scipy.special takes 0.1 s, and few programs have the operation.
    from scipy.special import erfc

    result = np.asarray(erfc(x.astype(np.float64) * factor))
    return result if x.dtype == np.float64 else result.astype(np.float32)


TABLE: dict[str, Callable[..., Any]] = {
    "abs": unary(np.abs),
    "acos": unary(np.arccos),
    "asin": unary(np.arcsin),
    "atan": unary(np.arctan),
    "atanh": unary(np.arctanh),
    "cast": cast,
    "ceil": unary(np.ceil),
    "clip": clip,
    "cos": unary(np.cos),
    "cosh": unary(np.cosh),
    "elu": elu,
    "erf": erf,
    "exp": unary(np.exp),
    "exp2": unary(np.exp2),
    "floor": unary(np.floor),
    "gelu": gelu,
    "inverse": inverse,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "log": log,
    "logical_not": unary(np.logical_not),
    "prelu": prelu,
    "relu": unary(lambda x: np.maximum(x, 0)),
    "relu6": unary(lambda x: np.clip(x, 0, 6)),
    "round": unary(np.round),
    "rsqrt": rsqrt,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "sign": unary(np.sign),
    "silu": silu,
    "sin": unary(np.sin),
    "sinh": unary(np.sinh),
    "softplus": softplus,
    "softsign": unary(lambda x: x / (1 + np.abs(x))),
    "sqrt": unary(np.sqrt),
    "square": unary(np.square),
    "tan": unary(np.tan),
    "tanh": unary(np.tanh),
    "threshold": threshold,
    "add": binary(np.add),
    "equal": binary(np.equal),
    "floor_div": binary(np.floor_divide),
    "greater": binary(np.greater),
    "greater_equal": binary(np.greater_equal),
    "less": binary(np.less),
    "less_equal": binary(np.less_equal),
    "logical_and": binary(np.logical_and),
    "logical_or": binary(np.logical_or),
    "logical_xor": binary(np.logical_xor),
    "maximum": binary(np.maximum),
    "minimum": binary(np.minimum),
    "mod": binary(np.mod),
    "mul": binary(np.multiply),
    "not_equal": binary(np.not_equal),
    "pow": binary(np.power),
    "real_div": real_div,
    "sub": binary(np.subtract),
}
