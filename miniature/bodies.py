"""List what draws the body of each kind of subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from miniature.bodies_creatures import bear, bird, cat, dog, duck, fish, monster, rabbit, robot, turtle
from miniature.bodies_objects import backpack, boot, can, car, clock, mug, teapot, vase
from miniature.figure import Figure
from miniature.subjects import Subject

_ANIMALS = (dog, cat, rabbit, bird, fish, turtle)
_OBJECTS = (teapot, mug, boot, backpack, car, clock, vase, can)
_TOYS = (robot, bear, duck, monster)
BODIES: Mapping[str, Callable[[Figure, Subject, float], None]] = {
    body.__name__: body for body in (*_ANIMALS, *_OBJECTS, *_TOYS)
}
"""What draws a subject of each kind into a figure, without its accessory, at a pose in [0, 1]."""
