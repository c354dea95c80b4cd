"""What a drawing is before it has a style: the shapes, their own colours and their relief, at twice the final size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

SIZE = 96  # pixels a side of a finished image
SUPERSAMPLE = 2  # buffers are this much finer, and are reduced after the style, for smooth edges
CANVAS = SIZE * SUPERSAMPLE

BACKGROUND, GROUND = 0, 1
"""Part numbers of what is behind the subject; the subject's own parts follow."""


@dataclass(frozen=True)
class Buffers:
    """A scene of CANVAS × CANVAS pixels, without a style."""

    part: Int[np.ndarray, "canvas canvas"]  # BACKGROUND, GROUND, or a part of the subject; a marking is a part too
    albedo: Float[np.ndarray, "canvas canvas 3"]  # the plain colour, sRGB in [0, 1]
    height: Float[np.ndarray, "canvas canvas"]  # relief in [0, 1]: 0 is flat, 1 is nearest to the eye

    @property
    def subject(self) -> Bool[np.ndarray, "canvas canvas"]:
        return self.part > GROUND
