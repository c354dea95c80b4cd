"""Draw objects. Each function draws one kind; the pose opens, turns or leans what can be opened or turned."""

from __future__ import annotations

import numpy as np

from miniature.figure import (
    CIRCLE,
    INK,
    SQUARE,
    Figure,
    ellipse,
    frame,
    lerp,
    limb,
    rounded,
    shade,
    smooth,
    stroke,
    swing,
)
from miniature.subjects import RGB, Subject

GLASS: RGB = (0.78, 0.90, 0.96)
STEEL: RGB = (0.72, 0.74, 0.78)
LEAF: RGB = (0.36, 0.62, 0.30)
CREAM: RGB = (0.99, 0.96, 0.88)


def teapot(subject: Subject, pose: float) -> Figure:
    """Draw a teapot. Shape: spout, handle, height, knob. The pose lifts the lid and leans the pot."""
    spout, handle, height, knob = subject.shape
    figure = Figure()
    tall = lerp(0.5, 0.62, height)
    pot = frame(0, 0.3, 1, angle=12 * swing(pose))
    figure.add(
        pot.at(stroke(((0.42, -0.25), (lerp(0.85, 1.0, handle), -0.25), (0.95, 0.2), (0.45, 0.35)), 0.09)),
        subject.second,
    )
    reach = lerp(-0.9, -1.05, spout)
    figure.add(
        pot.at(smooth(((-0.4, 0.4), (-0.72, 0.1), (reach, -0.45), (reach + 0.2, -0.5), (-0.55, -0.15), (-0.35, 0.0)))),
        shade(subject.body),
    )
    figure.add(pot.at(limb((-0.3, tall - 0.02), (0.3, tall - 0.02), 0.09)), subject.second)
    belly = pot.inner(0, 0, 0.66, tall)
    figure.add(belly.at(rounded(2.3)), subject.body, marked=belly.inner(0, 0.05))
    lid = pot.inner(0.1 * pose, -tall + 0.06 - 0.16 * pose, 1, angle=18 * pose)
    figure.add(lid.at(ellipse(0, -0.1, lerp(0.08, 0.13, knob) * 1.1)), subject.body)
    figure.add(lid.at(smooth(((-0.4, 0.06), (-0.3, -0.08), (0, -0.14), (0.3, -0.08), (0.4, 0.06)))), subject.second)
    figure.top, figure.face = lid.inner(0, -0.16, 0.32), pot.inner(0, -0.1, 0.28)
    return figure


def mug(subject: Subject, pose: float) -> Figure:
    """Draw a mug. Shape: width, height, handle, taper. The pose turns the handle and stirs the spoon."""
    width, height, handle, taper = subject.shape
    figure = Figure()
    wide, tall, foot = lerp(0.52, 0.64, width), lerp(0.5, 0.66, height), lerp(0.78, 1.0, taper)
    cup = frame(-0.12, 0.32, 1, angle=10 * swing(pose))
    turn = lerp(1.0, 0.7, pose)
    loop = (
        (wide - 0.08, -0.28),
        (wide + 0.36 * turn, -0.3),
        (wide + lerp(0.3, 0.42, handle) * turn, 0.22),
        (wide - 0.1, 0.3),
    )
    figure.add(cup.at(stroke(loop, 0.1)), subject.second)
    wall = np.array(
        (
            (-wide, -tall),
            (wide, -tall),
            (wide * foot, tall - 0.1),
            (wide * foot - 0.1, tall),
            (0.1 - wide * foot, tall),
            (-wide * foot, tall - 0.1),
        )
    )
    figure.add(cup.at(wall), subject.body, marked=cup.inner(0, 0.08, wide, tall - 0.08))
    figure.add(cup.at(ellipse(0, -tall, wide, 0.15)), shade(subject.body, 0.86))
    figure.add(cup.at(ellipse(0, -tall + 0.02, wide * 0.84, 0.1)), COFFEE, detail=True)
    spoon = cup.inner(0.1 * swing(pose, 2), -tall, 1, angle=34 * swing(pose, 1.5) + 10)
    figure.add(spoon.at(limb((0.0, 0.0), (0.0, -0.4), 0.05)), STEEL)
    figure.add(spoon.at(ellipse(0, -0.42, 0.1, 0.07)), STEEL, same=True)
    figure.top, figure.face = cup.inner(0, -tall - 0.04, 0.42), cup.inner(0, -0.08, 0.28)
    return figure


COFFEE: RGB = (0.36, 0.22, 0.14)


def boot(subject: Subject, pose: float) -> Figure:
    """Draw a boot. Shape: shaft, toe, heel, cuff. The pose lifts the heel and bends the shaft."""
    shaft, toe, heel, cuff = subject.shape
    figure = Figure()
    boot_frame = frame(0.05, 0.1, 1, angle=-22 * pose + 8)
    top, front = lerp(-0.7, -0.9, shaft), lerp(-0.78, -0.95, toe)
    lean = 0.12 * swing(pose, 1.5)
    figure.add(boot_frame.at(ellipse(0.14 + lean, top, 0.38, 0.12)), shade(subject.body, 0.6))
    side = (
        (-0.22 + lean, top),
        (0.5 + lean, top),
        (0.5, -0.1),
        (0.56, 0.42),
        (0.5, 0.66),
        (front + 0.08, 0.66),
        (front, 0.48),
        (front + 0.2, 0.2),
        (-0.28, 0.02),
    )
    figure.add(boot_frame.at(smooth(side, steps=4)), subject.body, marked=boot_frame.inner(0.08, -0.05, 0.5, 0.75))
    figure.add(
        boot_frame.at(
            smooth(((front - 0.02, 0.62), (front + 0.02, 0.42), (front + 0.3, 0.24), (front + 0.42, 0.62)), steps=4)
        ),
        subject.second,
    )
    band = lerp(0.09, 0.13, cuff)
    figure.add(boot_frame.at(limb((-0.2 + lean, top + 0.05), (0.48 + lean, top + 0.05), band)), subject.second)
    figure.add(boot_frame.at(limb((front + 0.06, 0.7), (0.5, 0.7), 0.09)), subject.second)
    figure.add(boot_frame.inner(0.42, 0.8, 0.17, lerp(0.12, 0.18, heel)).at(SQUARE), shade(subject.second))
    for y in (-0.3, -0.1, 0.1):
        figure.add(boot_frame.at(limb((-0.3, y), (-0.02, y - 0.06), 0.045)), CREAM, detail=True)
    figure.top, figure.face = boot_frame.inner(0.14 + lean, top - 0.04, 0.38), boot_frame.inner(0.12, -0.35, 0.24)
    return figure


def backpack(subject: Subject, pose: float) -> Figure:
    """Draw a backpack. Shape: width, pocket, straps, roundness. The pose opens the flap and leans the bag."""
    width, pocket, strap, round_ = subject.shape
    figure = Figure()
    bag = frame(0, 0.15, 1, angle=10 * swing(pose))
    wide = lerp(0.56, 0.68, width)
    figure.add(
        bag.at(stroke(((-0.18, -0.72), (-0.14, -0.95), (0.14, -0.95), (0.18, -0.72)), 0.06)), shade(subject.second)
    )
    for side in (-1, 1):
        loop = ((side * wide * 0.7, -0.4), (side * (wide + lerp(0.16, 0.26, strap)), 0.1), (side * wide * 0.8, 0.66))
        figure.add(bag.at(stroke(loop, 0.08)), shade(subject.second))
    figure.add(
        bag.inner(0, 0, wide, 0.8).at(rounded(lerp(3.0, 4.5, round_))),
        subject.body,
        marked=bag.inner(0, -0.02, wide, 0.66),
    )
    figure.add(bag.inner(0, 0.45, wide * 0.72, lerp(0.24, 0.3, pocket)).at(rounded(4)), subject.second)
    figure.add(bag.at(limb((-wide * 0.5, 0.36), (wide * 0.5, 0.36), 0.035)), STEEL, detail=True)
    figure.add(bag.at(limb((wide * 0.5, 0.36), (wide * 0.5, 0.5), 0.045)), STEEL, detail=True, same=True)
    drop = lerp(0.24, 0.1, pose)
    flap = (
        (-wide, -0.5),
        (-wide * 0.8, -0.8),
        (0, -0.88),
        (wide * 0.8, -0.8),
        (wide, -0.5),
        (wide * 0.6, drop - 0.46),
        (-wide * 0.6, drop - 0.46),
    )
    figure.add(bag.at(smooth(flap, steps=4)), shade(subject.body, 0.86))
    figure.add(bag.inner(0, drop - 0.46, 0.08, 0.12).at(rounded(4)), STEEL, detail=True)
    figure.top, figure.face = bag.inner(0, -0.84, 0.4), bag.inner(0, -0.12, 0.27)
    return figure


def car(subject: Subject, pose: float) -> Figure:
    """Draw a car. Shape: cabin, bonnet, wheels, height. The pose rolls the wheels and rocks the body."""
    cabin, bonnet, wheel, height = subject.shape
    figure = Figure()
    hull = frame(0, 0.28, 1, angle=5 * swing(pose, 2))
    roof, nose = lerp(-0.72, -0.86, height), lerp(-0.9, -1.0, bonnet)
    back = lerp(0.55, 0.78, cabin)
    figure.add(
        hull.at(smooth(((-0.6, -0.05), (-0.36, roof), (back - 0.2, roof), (back + 0.12, -0.05)), steps=4)),
        shade(subject.body, 0.86),
    )
    figure.add(
        hull.at(smooth(((-0.46, -0.12), (-0.3, roof + 0.14), (0.02, roof + 0.12), (0.02, -0.12)), steps=3)),
        GLASS,
        detail=True,
    )
    figure.add(
        hull.at(
            smooth(((0.14, -0.12), (0.14, roof + 0.12), (back - 0.24, roof + 0.14), (back - 0.04, -0.12)), steps=3)
        ),
        GLASS,
        detail=True,
    )
    side = (
        (nose, 0.3),
        (nose, 0.02),
        (nose + 0.22, -0.18),
        (0.6, -0.2),
        (0.96, -0.08),
        (0.98, 0.3),
        (0.85, 0.42),
        (nose + 0.1, 0.42),
    )
    figure.add(hull.at(smooth(side, steps=4)), subject.body, marked=hull.inner(0, 0.1, 0.95, 0.34))
    figure.add(hull.at(ellipse(nose + 0.1, 0.04, 0.09, 0.11)), CREAM, detail=True)
    figure.add(hull.at(limb((0.9, 0.0), (0.9, 0.1), 0.06)), (0.9, 0.25, 0.2), detail=True)
    _add_wheels(figure, subject, lerp(0.24, 0.3, wheel), pose)
    figure.top, figure.face = hull.inner((back - 0.5) / 2, roof + 0.02, 0.42), hull.inner(-0.16, -0.34, 0.28)
    return figure


def _add_wheels(figure: Figure, subject: Subject, radius: float, pose: float) -> None:
    for x in (-0.52, 0.54):
        figure.add(ellipse(x, 0.98 - radius, radius), INK)
        figure.add(ellipse(x, 0.98 - radius, radius * 0.66), subject.second)
        for turn in (0, 90):
            spoke = frame(x, 0.98 - radius, radius * 0.55, angle=turn + 180 * pose)
            figure.add(spoke.at(limb((-1, 0), (1, 0), 0.12)), STEEL, detail=True, same=turn > 0)


def clock(subject: Subject, pose: float) -> Figure:
    """Draw an alarm clock. Shape: bells, rim, feet, hands. The pose moves its hands and shakes it."""
    bells, rim, feet, hand = subject.shape
    figure = Figure()
    case = frame(0, 0.2, 0.72, angle=14 * swing(pose, 2))
    for side in (-1, 1):
        figure.add(case.at(limb((side * 0.5, 0.7), (side * lerp(0.66, 0.85, feet), 1.08), 0.12)), shade(subject.body))
        bell = case.inner(side * 0.62, -0.95, lerp(0.34, 0.44, bells), angle=side * 32)
        figure.add(bell.at(smooth(((-1, 0.3), (-0.75, -0.4), (0, -0.7), (0.75, -0.4), (1, 0.3)))), subject.second)
    figure.add(case.at(stroke(((-0.2, -0.95), (-0.16, -1.26), (0.16, -1.26), (0.2, -0.95)), 0.07)), STEEL)
    figure.add(case.at(CIRCLE), subject.body, marked=case)
    face = case.inner(0, 0, lerp(0.58, 0.68, rim))
    figure.add(face.at(CIRCLE), CREAM)
    for turn in range(0, 360, 90):
        figure.add(
            face.inner(0, 0, 1, angle=turn).at(limb((0, -0.82), (0, -0.72), 0.07)), INK, detail=True, same=turn > 0
        )
    figure.add(face.inner(0, 0, 1, angle=360 * pose).at(limb((0, 0), (0, -0.65), 0.07)), INK, detail=True)
    figure.add(
        face.inner(0, 0, 1, angle=120 + 90 * pose).at(limb((0, 0), (0, -lerp(0.35, 0.5, hand)), 0.09)),
        subject.second,
        detail=True,
    )
    figure.add(face.at(ellipse(0, 0, 0.12)), INK, detail=True)
    figure.top, figure.face = case.inner(0, -1.0, 0.5), case.inner(0, -0.12, 0.4)
    return figure


def vase(subject: Subject, pose: float) -> Figure:
    """Draw a vase. Shape: belly, neck, flowers, lip. The pose sways the flowers and leans the vase."""
    belly, neck, bloom, lip = subject.shape
    figure = Figure()
    pot = frame(0, 0.42, 1, angle=8 * swing(pose))
    wide, narrow, mouth = lerp(0.46, 0.6, belly), lerp(0.18, 0.28, neck), lerp(0.28, 0.38, lip)
    for turn, length in ((-34, 0.62), (0, 0.8), (34, 0.62)):
        stem = pot.inner(0, -0.5, 1, angle=turn * lerp(0.8, 1.15, pose) + 12 * swing(pose, 1.5))
        figure.add(stem.at(limb((0, 0.1), (0, -length + 0.2), 0.04)), LEAF)
        size = lerp(0.2, 0.25, bloom)
        for petal in range(0, 360, 72):
            figure.add(
                stem.inner(0, -length + 0.12, size, angle=petal).at(ellipse(0, -0.6, 0.45)),
                subject.second,
                same=petal > 0,
            )
        figure.add(
            stem.at(ellipse(0, -length + 0.12, size * 0.42)), CREAM if subject.second != CREAM else INK, detail=True
        )
    right = ((mouth, -0.56), (narrow, -0.36), (wide * 0.8, -0.12), (wide, 0.16), (wide * 0.75, 0.46), (0.26, 0.56))
    figure.add(
        pot.at(smooth((*right, *((-x, y) for x, y in reversed(right))), steps=4)),
        subject.body,
        marked=pot.inner(0, 0.14, wide, 0.42),
    )
    figure.add(pot.at(limb((-mouth + 0.04, -0.56), (mouth - 0.04, -0.56), 0.07)), shade(subject.body))
    figure.top, figure.face = pot.inner(0, -0.58, 0.34), pot.inner(0, 0.06, 0.25)
    return figure


def can(subject: Subject, pose: float) -> Figure:
    """Draw a drinks can. Shape: width, rim, straw, bend. The pose turns the straw and leans the can."""
    width, rim, straw, bend = subject.shape
    figure = Figure()
    tin = frame(0, 0.28, 1, angle=16 * swing(pose))
    wide = lerp(0.42, 0.54, width)
    edge = wide * lerp(0.8, 0.9, rim)
    tip = 0.5 * swing(pose, 0.75) + 0.15
    line = ((0.1, -0.6), (0.14 + 0.3 * tip, -0.95), (0.2 + 0.5 * tip, -1.05), (lerp(0.3, 0.5, bend) + 0.5 * tip, -1.1))
    figure.add(tin.at(limb((-edge + 0.05, 0.7), (edge - 0.05, 0.7), 0.07)), STEEL)
    figure.add(tin.at(ellipse(0, -0.68, edge, 0.14)), STEEL)
    figure.add(tin.at(ellipse(0, -0.7, edge * 0.8, 0.08)), shade(STEEL, 0.7), detail=True)
    figure.add(tin.at(stroke(line, lerp(0.06, 0.08, straw))), subject.second)
    right = ((edge, -0.66), (wide, -0.52), (wide, 0.56), (edge, 0.7))
    outline = np.concatenate(
        (
            np.array(right),
            np.array([(-x, y) for x, y in reversed(right)]),
            ellipse(0, -0.66, edge, 0.1)[13:0:-1] * (-1, 1),
        )
    )
    figure.add(tin.at(outline), subject.body, marked=tin.inner(0, 0.04, wide, 0.6))
    figure.add(tin.at(limb((-wide + 0.05, 0.58), (wide - 0.05, 0.58), 0.05)), subject.second)
    figure.top, figure.face = tin.inner(0, -0.74, 0.38), tin.inner(0, -0.15, 0.24)
    return figure
