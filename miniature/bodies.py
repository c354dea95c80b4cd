"""Turn a subject and a pose into its figure, with what it wears."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from miniature import bodies_animals as animals
from miniature import bodies_objects as objects
from miniature import bodies_toys as toys
from miniature.figure import Figure
from miniature.subjects import Subject

BODIES: Mapping[str, Callable[[Subject, float], Figure]] = {
    "dog": animals.dog,
    "cat": animals.cat,
    "rabbit": animals.rabbit,
    "bird": animals.bird,
    "fish": animals.fish,
    "turtle": animals.turtle,
    "teapot": objects.teapot,
    "mug": objects.mug,
    "boot": objects.boot,
    "backpack": objects.backpack,
    "car": objects.car,
    "clock": objects.clock,
    "vase": objects.vase,
    "can": objects.can,
    "robot": toys.robot,
    "bear": toys.bear,
    "duck": toys.duck,
    "monster": toys.monster,
}


def body_figure(subject: Subject, pose: float) -> Figure:
    """Return the subject's parts without accessory; `pose` in [0, 1]."""
    return BODIES[subject.kind](subject, pose)
