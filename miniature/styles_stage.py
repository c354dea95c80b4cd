"""What one style's renderer is given: the scene, the style's palette, and the noise of this picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from miniature import styles_tools as tools
from miniature.buffers import Buffers
from miniature.styles_palette import Palette, tone


@dataclass(frozen=True)
class Stage:
    """A scene on the way to a picture."""

    buffers: Buffers
    palette: Palette
    rng: np.random.Generator

    def wobbled(self, amount: tools.Number, scale: tools.Number = 16.0) -> Stage:
        """Return the same stage with the scene's edges wandering, as a hand draws."""
        return self.warped(amount * self.noise(scale), amount * self.noise(scale))

    def warped(self, down: tools.Plane, right: tools.Plane) -> Stage:
        """Return the same stage with each of the scene's pixels taken from `down`, `right` pixels away."""
        return Stage(tools.warp(self.buffers, down, right), self.palette, self.rng)

    @cached_property
    def colour(self) -> tools.Picture:
        """Return the albedo in the style's palette."""
        return self.palette.apply(self.buffers.albedo.astype(np.float32))

    @cached_property
    def tone(self) -> tools.Plane:
        """Return the lightness of the albedo in [0, 1]."""
        return tone(self.buffers.albedo.astype(np.float32))

    @cached_property
    def subject(self) -> tools.Plane:
        return self.buffers.subject.astype(np.float32)

    @cached_property
    def edge(self) -> tools.Plane:
        return tools.borders(self.buffers.part)

    @cached_property
    def paper(self) -> Float[np.ndarray, " 3"]:
        return np.array(self.palette.paper, np.float32)

    def ink(self, index: int = 0) -> Float[np.ndarray, " 3"]:
        return np.array(self.palette.inks[index], np.float32)

    def lit(self, depth: tools.Number, angle: tools.Number, rise: tools.Number = 0.9) -> tools.Plane:
        """Return Lambert light on the relief."""
        return tools.light(tools.normals(self.buffers.height, depth), angle, rise)

    def shaded(self, ambient: tools.Number, direct: tools.Number, depth: tools.Number) -> tools.Picture:
        """Return the palette's colours under a lamp at the upper left."""
        bright = ambient + direct * self.lit(depth, 2.2)
        return self.colour * bright[..., None]

    def noise(self, along: tools.Number, across: tools.Number | None = None, angle: tools.Number = 0.0) -> tools.Plane:
        return tools.noise(self.rng, along, across, angle)


Params = Mapping[str, float]
"""A style's own numbers."""
Renderer = Callable[[Stage, Params], np.ndarray]
