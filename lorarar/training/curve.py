"""Tell a training's losses as text: a sparkline, and the mean of the first and the last part. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(losses: Sequence[float], width: int = 40) -> str:
    """Draw the means of up to `width` equal parts, the smallest as the lowest bar; an empty text without losses.

    The diffusion loss depends on the timestep drawn far more than on progress, so single steps would show noise only.
    """
    if not losses:
        return ""
    means = np.array([part.mean() for part in np.array_split(np.asarray(losses, float), min(width, len(losses)))])
    span = means.max() - means.min()
    heights = np.zeros(len(means)) if span == 0 else (means - means.min()) / span
    return "".join(_BARS[round(height * (len(_BARS) - 1))] for height in heights)


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """Return the mean loss of the first and of the last tenth of the steps (at least one step each)."""
    part = max(1, len(losses) // 10)
    return float(np.mean(losses[:part])), float(np.mean(losses[-part:]))
