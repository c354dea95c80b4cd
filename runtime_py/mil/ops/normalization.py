"""Softmax and the normalizations (MIL's normalization and activation). Means are taken in float64."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
Number = np.ndarray | float


def softmax(x: Array, axis: Array | int = -1) -> Array:
    """Return eˣ over its sum along an axis."""
    along = int(axis)
    result = x - x.max(along, keepdims=True)
    np.exp(result, out=result)
    result /= result.sum(along, keepdims=True, dtype=np.float64).astype(x.dtype)
    return result


def layer_norm(
    x: Array,
    axes: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Number = 1e-5,
) -> Array:
    """Bring x to mean 0 and variance 1 over `axes`, then apply gamma and beta, which have the sizes of those axes."""
    over = range(x.ndim) if axes is None else sorted(int(axis) % x.ndim for axis in axes)
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    return _affine(_standardize(x, tuple(over), epsilon), gamma, beta, shape)


def instance_norm(x: Array, gamma: Array | None = None, beta: Array | None = None, epsilon: Number = 1e-5) -> Array:
    """Bring (N, C, *D) to mean 0 and variance 1 over its spatial axes, then apply each channel's gamma and beta."""
    return _affine(_standardize(x, tuple(range(2, x.ndim)), epsilon), gamma, beta, _channels(x))


def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Number = 1e-5,
) -> Array:
    """Return (x - mean) / √(variance + epsilon) for each channel of (N, C, *D), after gamma and beta."""
    shape = _channels(x)
    normal = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + epsilon)
    return _affine(normal, gamma, beta, shape)


def l2_norm(x: Array, epsilon: Number = 1e-6) -> Array:
    """Return x over the norm of its last three axes."""
    square = np.square(x).sum((-3, -2, -1), keepdims=True, dtype=np.float64)
    return np.asarray(x / np.sqrt(square + epsilon).astype(x.dtype))


def local_response_norm(x: Array, size: Array, alpha: Number = 1e-4, beta: Number = 0.75, k: Number = 1.0) -> Array:
    """Return x over (k + alpha / size · Σ x²)^beta, the sum over `size` channels around each one."""
    width, channels = int(size), x.shape[1]
    # The window of channel c reaches from c - size // 2 on; of an even size it has one less after c than before.
    sums = np.zeros((x.shape[0], channels + 1, *x.shape[2:]), np.float64)
    np.cumsum(np.square(x), 1, dtype=np.float64, out=sums[:, 1:])
    first = np.arange(channels) - width // 2
    near = sums[:, np.clip(first + width, 0, channels)] - sums[:, np.clip(first, 0, channels)]
    return np.asarray(x / (float(k) + float(alpha) / width * near) ** float(beta))


def _channels(x: Array) -> list[int]:
    return [1, -1, *[1] * (x.ndim - 2)]


def _standardize(x: Array, axes: tuple[int, ...], epsilon: Number) -> Array:
    result = x - x.mean(axes, keepdims=True, dtype=np.float64).astype(x.dtype)
    variance = np.square(result).mean(axes, keepdims=True, dtype=np.float64)
    result *= (1 / np.sqrt(variance + epsilon)).astype(x.dtype)
    return result


def _affine(x: Array, gamma: Array | None, beta: Array | None, shape: list[int]) -> Array:
    """Scale and shift in place: the operand is always a fresh array of the caller's."""
    if gamma is not None:
        x *= gamma.reshape(shape)
    if beta is not None:
        x += beta.reshape(shape)
    return x
