"""Elementwise operations (MIL's elementwise_unary, elementwise_binary and activation)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Table = dict[str, Callable[..., Any]]


def _same_names(names: str) -> Table:
    return {name: getattr(np, name) for name in names.split()}


ONE_ARRAY = _same_names("abs ceil cos cosh exp exp2 floor logical_not round sign sin sinh sqrt square tan tanh")
ONE_ARRAY |= {"acos": np.arccos, "asin": np.arcsin, "atan": np.arctan, "atanh": np.arctanh}
"""MIL's name → numpy's function of one array."""

TWO_ARRAYS = _same_names("add equal greater greater_equal less less_equal maximum minimum mod not_equal")
TWO_ARRAYS |= _same_names("logical_and logical_or logical_xor")
TWO_ARRAYS |= {"floor_div": np.floor_divide, "mul": np.multiply, "pow": np.power, "sub": np.subtract}
# Of integers too: the evaluator then truncates the quotient to the declared type.
TWO_ARRAYS["real_div"] = np.true_divide
"""MIL's name → numpy's function of two arrays, which are broadcast."""

FORMULAS: Table = {
    "clamped_relu": lambda x, alpha, beta: np.minimum(beta, np.where(x >= 0, x, alpha * x)),
    "clip": lambda x, alpha, beta: x.clip(alpha, beta),
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    "inverse": lambda x, epsilon=1e-4: 1 / (x + epsilon),
    "leaky_relu": lambda x, alpha: np.where(x >= 0, x, alpha * x),
    "linear_activation": lambda x, alpha, beta: alpha * x + beta,
    "log": lambda x, epsilon=1e-45: np.log(x + epsilon),
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "rsqrt": lambda x, epsilon=1e-12: 1 / np.sqrt(x + epsilon),
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "sigmoid_hard": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, np.zeros((), x.dtype)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "threshold": lambda x, alpha: x.clip(min=alpha),
    "thresholded_relu": lambda x, alpha: np.where(x >= alpha, x, 0),
}
"""MIL's name → its formula, with MIL's parameters and defaults."""


def cast(x: Array, dtype: str) -> Array:
    """Return x in another type: integers are truncated towards zero, floats are left to the evaluator's mode."""
    if dtype == "bool":
        return np.asarray(x != 0)
    return x if dtype.startswith("fp") else x.astype(dtype)


def prelu(x: Array, alpha: Array) -> Array:
    """Return leaky_relu with one alpha a channel (axis 1)."""
    return np.where(x >= 0, x, _by_channel(alpha, x) * x)


def softplus_parametric(x: Array, alpha: Array, beta: Array) -> Array:
    """Return alpha · ln(1 + e^(beta·x)) with one alpha and beta a channel (axis 1)."""
    return np.asarray(_by_channel(alpha, x) * np.logaddexp(_by_channel(beta, x) * x, np.zeros((), x.dtype)))


def _by_channel(value: Array, x: Array) -> Array:
    return value.reshape(-1, *[1] * (x.ndim - 2))


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + e⁻ˣ), by way of tanh, which overflows nowhere."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def gelu(x: Array, mode: str = "EXACT") -> Array:
    """Return the Gaussian error linear unit: exact, or one of its two usual approximations."""
    if mode == "EXACT":
        return np.asarray((0.5 * x) * _erfc(-x, math.sqrt(0.5)))
    if mode == "TANH_APPROXIMATION":
        return np.asarray(x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x * sigmoid(1.702 * x))
    raise ValueError(f"its mode {mode!r} is none of the spec's")


def erf(x: Array) -> Array:
    """Return the error function."""
    return np.asarray(1 - _erfc(x, 1.0))


_TAIL = 0.7  # from here on 1 - erf has lost digits
_NUMERATOR = (1.12837917, 0.185330136, 0.0541975085, 0.00383702549, 0.000373746083, 4.52517264e-06, -1.23827006e-08)
_DENOMINATOR = (1.0, 0.497577941, 0.113890242, 0.0154166115, 0.00129711823, 6.15991999e-05)
"""erf(z) is z · N(z²) / D(z²) to 2.4e-9 for |z| up to _END: our own fit, by least squares with weights."""
_END = 3.925  # erf rounds to 1 beyond
_CHUNK = 1 << 14  # elements whose temporaries stay in a core's cache


def _erfc(x: Array, factor: float) -> Array:
    """Return 1 - erf(factor · x). Its tail is computed in float64: there a rounded argument alone would cost digits."""
    if x.dtype == np.float64:
        return _erfc_in_double(x, factor)
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, _CHUNK):
        z = flat[start : start + _CHUNK] * np.float32(factor)
        tail = np.flatnonzero(~(z < _TAIL))
        z.clip(-_END, _END, out=z)
        square = z * z
        z *= _polynomial(square, _NUMERATOR)
        z /= _polynomial(square, _DENOMINATOR)
        np.subtract(1, z, out=result[start : start + _CHUNK])
        if tail.size:
            result[start + tail] = _erfc_in_double(flat[start + tail], factor)
    return result.reshape(x.shape)


def _erfc_in_double(x: Array, factor: float) -> Array:
    # Imported here: scipy.special takes 0.1 s, and few programs have the operation.
    from scipy.special import erfc

    return np.asarray(erfc(x.astype(np.float64) * factor)).astype(x.dtype)


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    result = x * np.float32(coefficients[-1])
    for each in coefficients[-2:0:-1]:
        result += np.float32(each)
        result *= x
    result += np.float32(coefficients[0])
    return result


def _of_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function of one array MIL's parameter name."""

    def op(x: Array) -> Any:
        return function(x)

    return op


def _of_two(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function of two arrays MIL's parameter names."""

    def op(x: Array, y: Array) -> Any:
        return function(x, y)

    return op


TABLE: Table = {
    **{name: _of_one(function) for name, function in ONE_ARRAY.items()},
    **{name: _of_two(function) for name, function in TWO_ARRAYS.items()},
    **FORMULAS,
}
