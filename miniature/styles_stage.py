"""What one style's renderer is given: the scene, the style's numbers, and the noise of this picture."""

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
    params: Mapping[str, float]
    palette: Palette
    rng: np.random.Generator

    def wobbled(self, amount: tools.Number, scale: tools.Number = 16.0) -> Stage:
        """Return the same stage with the scene's edges wandering, as a hand draws."""
        return self.over(tools.wobble(self.buffers, self.rng, amount, scale))

    def over(self, buffers: Buffers) -> Stage:
        return Stage(buffers, self.params, self.palette, self.rng)

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
        return self.palette.colour(index)

    def lit(self, depth: tools.Number, angle: tools.Number, rise: tools.Number = 0.9) -> tools.Plane:
        """Return Lambert light on the relief."""
        return tools.light(tools.normals(self.buffers.height, depth), angle, rise)

    def shaded(self, ambient: tools.Number, direct: tools.Number, depth: tools.Number) -> tools.Picture:
        """Return the palette's colours under a lamp at the upper left."""
        bright = ambient + direct * self.lit(depth, 2.2)
        return self.colour * bright[..., None]

    def noise(self, along: tools.Number, across: tools.Number | None = None, angle: tools.Number = 0.0) -> tools.Plane:
        return tools.noise(self.rng, along, across, angle)


Renderer = Callable[[Stage], np.ndarray]
