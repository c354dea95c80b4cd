"""Sinusoids for the apps' engines to compare theirs with."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime_py.sinusoids import sinusoids

CASES = (([999.0], 320), ([0.5, 31.75], 6), ([1024.0, 1024.0, 0.0, 0.0, 768.0, 768.0], 256))


def sinusoid_cases() -> list[dict[str, Any]]:
    """Values, a width and what Python makes of them."""
    return [
        {"values": values, "width": width, "sinusoids": sinusoids(np.float32(values), width).tolist()}
        for values, width in CASES
    ]
