"""Draw objects. Each function draws one kind; the pose opens, turns or leans what can be opened or turned."""

from __future__ import annotations

import numpy as np

from miniature.figure import (
    CIRCLE,
    INK,
    SQUARE,
    STEEL,
    Figure,
    add_petals,
    ellipse,
    lerp,
    limb,
    mirrored,
    rounded,
    shade,
    smooth,
    stroke,
    swing,
)
from miniature.subjects import RGB, Subject

GLASS: RGB = (0.78, 0.90, 0.96)
LEAF: RGB = (0.36, 0.62, 0.30)
CREAM: RGB = (0.99, 0.96, 0.88)
COFFEE: RGB = (0.36, 0.22, 0.14)


def teapot(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a teapot. Shape: spout, handle, height, knob. The pose lifts the lid and leans the pot."""
    spout, handle, height, knob = subject.shape
    pot = figure.inner(0, 0.3, 1, angle=12 * swing(pose))
    tall, reach = lerp(0.5, 0.62, height), lerp(-0.9, -1.05, spout)
    pot.add(stroke(((0.42, -0.25), (lerp(0.85, 1.0, handle), -0.25), (0.95, 0.2), (0.45, 0.35)), 0.09), subject.second)
    pipe = ((-0.4, 0.4), (-0.72, 0.1), (reach, -0.45), (reach + 0.2, -0.5), (-0.55, -0.15), (-0.35, 0.0))
    pot.add(smooth(pipe), shade(subject.body))
    pot.add(limb((-0.3, tall - 0.02), (0.3, tall - 0.02), 0.09), subject.second)
    belly = pot.inner(0, 0, 0.66, tall)
    belly.add(rounded(2.3), subject.body, marked=belly.inner(0, 0.05))
    lid = pot.inner(0.1 * pose, -tall + 0.06 - 0.16 * pose, 1, angle=18 * pose)
    lid.add(ellipse(0, -0.1, lerp(0.08, 0.13, knob) * 1.1), subject.body)
    lid.add(smooth(((-0.4, 0.06), (-0.3, -0.08), (0, -0.14), (0.3, -0.08), (0.4, 0.06))), subject.second)
    figure.top, figure.face = lid.inner(0, -0.16, 0.32), pot.inner(0, -0.1, 0.28)


def mug(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a mug. Shape: width, height, handle, taper. The pose turns the handle and stirs the spoon."""
    width, height, handle, taper = subject.shape
    wide, tall, foot = lerp(0.52, 0.64, width), lerp(0.5, 0.66, height), lerp(0.78, 1.0, taper)
    cup = figure.inner(-0.12, 0.32, 1, angle=10 * swing(pose))
    turn, reach = lerp(1.0, 0.7, pose), lerp(0.3, 0.42, handle)
    loop = ((wide - 0.08, -0.28), (wide + 0.36 * turn, -0.3), (wide + reach * turn, 0.22), (wide - 0.1, 0.3))
    cup.add(stroke(loop, 0.1), subject.second)
    wall = mirrored(((wide, -tall), (wide * foot, tall - 0.1), (wide * foot - 0.1, tall)))
    cup.add(np.array(wall), subject.body, marked=cup.inner(0, 0.08, wide, tall - 0.08))
    cup.add(ellipse(0, -tall, wide, 0.15), shade(subject.body, 0.86))
    cup.add(ellipse(0, -tall + 0.02, wide * 0.84, 0.1), COFFEE, detail=True)
    spoon = cup.inner(0.1 * swing(pose, 2), -tall, 1, angle=34 * swing(pose, 1.5) + 10)
    spoon.add(limb((0.0, 0.0), (0.0, -0.4), 0.05), STEEL)
    spoon.add(ellipse(0, -0.42, 0.1, 0.07), STEEL, same=True)
    figure.top, figure.face = cup.inner(0, -tall - 0.04, 0.42), cup.inner(0, -0.08, 0.28)


def boot(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a boot. Shape: shaft, toe, heel, cuff. The pose lifts the heel and bends the shaft."""
    shaft, toe, heel, cuff = subject.shape
    shoe = figure.inner(0.05, 0.1, 1, angle=-22 * pose + 8)
    top, front, lean = lerp(-0.7, -0.9, shaft), lerp(-0.78, -0.95, toe), 0.12 * swing(pose, 1.5)
    shoe.add(ellipse(0.14 + lean, top, 0.38, 0.12), shade(subject.body, 0.6))
    back = ((-0.22 + lean, top), (0.5 + lean, top), (0.5, -0.1), (0.56, 0.42), (0.5, 0.66))
    foot = ((front + 0.08, 0.66), (front, 0.48), (front + 0.2, 0.2), (-0.28, 0.02))
    shoe.add(smooth((*back, *foot), steps=4), subject.body, marked=shoe.inner(0.08, -0.05, 0.5, 0.75))
    cap = ((front - 0.02, 0.62), (front + 0.02, 0.42), (front + 0.3, 0.24), (front + 0.42, 0.62))
    shoe.add(smooth(cap, steps=4), subject.second)
    shoe.add(limb((-0.2 + lean, top + 0.05), (0.48 + lean, top + 0.05), lerp(0.09, 0.13, cuff)), subject.second)
    shoe.add(limb((front + 0.06, 0.7), (0.5, 0.7), 0.09), subject.second)
    shoe.inner(0.42, 0.8, 0.17, lerp(0.12, 0.18, heel)).add(SQUARE, shade(subject.second))
    for y in (-0.3, -0.1, 0.1):
        shoe.add(limb((-0.3, y), (-0.02, y - 0.06), 0.045), CREAM, detail=True)
    figure.top, figure.face = shoe.inner(0.14 + lean, top - 0.04, 0.38), shoe.inner(0.12, -0.35, 0.24)


def backpack(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a backpack. Shape: width, pocket, straps, roundness. The pose opens the flap and leans the bag."""
    width, pocket, strap, round_ = subject.shape
    bag = figure.inner(0, 0.15, 1, angle=10 * swing(pose))
    wide = lerp(0.56, 0.68, width)
    bag.add(stroke(((-0.18, -0.72), (-0.14, -0.95), (0.14, -0.95), (0.18, -0.72)), 0.06), shade(subject.second))
    for side in (-1, 1):
        loop = ((side * wide * 0.7, -0.4), (side * (wide + lerp(0.16, 0.26, strap)), 0.1), (side * wide * 0.8, 0.66))
        bag.add(stroke(loop, 0.08), shade(subject.second))
    sack = rounded(lerp(3.0, 4.5, round_))
    bag.inner(0, 0, wide, 0.8).add(sack, subject.body, marked=bag.inner(0, -0.02, wide, 0.66))
    bag.inner(0, 0.45, wide * 0.72, lerp(0.24, 0.3, pocket)).add(rounded(4), subject.second)
    bag.add(limb((-wide * 0.5, 0.36), (wide * 0.5, 0.36), 0.035), STEEL, detail=True)
    bag.add(limb((wide * 0.5, 0.36), (wide * 0.5, 0.5), 0.045), STEEL, detail=True, same=True)
    edge = lerp(0.24, 0.1, pose) - 0.46
    upper = ((-wide, -0.5), (-wide * 0.8, -0.8), (0, -0.88), (wide * 0.8, -0.8), (wide, -0.5))
    bag.add(smooth((*upper, (wide * 0.6, edge), (-wide * 0.6, edge)), steps=4), shade(subject.body, 0.86))
    bag.inner(0, edge, 0.08, 0.12).add(rounded(4), STEEL, detail=True)
    figure.top, figure.face = bag.inner(0, -0.84, 0.4), bag.inner(0, -0.12, 0.27)


def car(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a car. Shape: cabin, bonnet, wheels, height. The pose rolls the wheels and rocks the body."""
    cabin, bonnet, wheel, height = subject.shape
    hull = figure.inner(0, 0.28, 1, angle=5 * swing(pose, 2))
    roof, nose, back = lerp(-0.72, -0.86, height), lerp(-0.9, -1.0, bonnet), lerp(0.55, 0.78, cabin)
    top = ((-0.6, -0.05), (-0.36, roof), (back - 0.2, roof), (back + 0.12, -0.05))
    hull.add(smooth(top, steps=4), shade(subject.body, 0.86))
    for pane in (
        ((-0.46, -0.12), (-0.3, roof + 0.14), (0.02, roof + 0.12), (0.02, -0.12)),
        ((0.14, -0.12), (0.14, roof + 0.12), (back - 0.24, roof + 0.14), (back - 0.04, -0.12)),
    ):
        hull.add(smooth(pane, steps=3), GLASS, detail=True)
    front = ((nose, 0.3), (nose, 0.02), (nose + 0.22, -0.18))
    rear = ((0.6, -0.2), (0.96, -0.08), (0.98, 0.3), (0.85, 0.42), (nose + 0.1, 0.42))
    hull.add(smooth((*front, *rear), steps=4), subject.body, marked=hull.inner(0, 0.1, 0.95, 0.34))
    hull.add(ellipse(nose + 0.1, 0.04, 0.09, 0.11), CREAM, detail=True)
    hull.add(limb((0.9, 0.0), (0.9, 0.1), 0.06), (0.9, 0.25, 0.2), detail=True)
    _add_wheels(figure, subject, lerp(0.24, 0.3, wheel), pose)
    figure.top, figure.face = hull.inner((back - 0.5) / 2, roof + 0.02, 0.42), hull.inner(-0.16, -0.34, 0.28)


def _add_wheels(figure: Figure, subject: Subject, radius: float, pose: float) -> None:
    for x in (-0.52, 0.54):
        figure.add(ellipse(x, 0.98 - radius, radius), INK)
        figure.add(ellipse(x, 0.98 - radius, radius * 0.66), subject.second)
        for turn in (0, 90):
            hub = figure.inner(x, 0.98 - radius, radius * 0.55, angle=turn + 180 * pose)
            hub.add(limb((-1, 0), (1, 0), 0.12), STEEL, detail=True, same=turn > 0)


def clock(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw an alarm clock. Shape: bells, rim, feet, hands. The pose moves its hands and shakes it."""
    bells, rim, feet, hand = subject.shape
    case = figure.inner(0, 0.2, 0.72, angle=14 * swing(pose, 2))
    for side in (-1, 1):
        case.add(limb((side * 0.5, 0.7), (side * lerp(0.66, 0.85, feet), 1.08), 0.12), shade(subject.body))
        bell = case.inner(side * 0.62, -0.95, lerp(0.34, 0.44, bells), angle=side * 32)
        bell.add(smooth(((-1, 0.3), (-0.75, -0.4), (0, -0.7), (0.75, -0.4), (1, 0.3))), subject.second)
    case.add(stroke(((-0.2, -0.95), (-0.16, -1.26), (0.16, -1.26), (0.2, -0.95)), 0.07), STEEL)
    case.add(CIRCLE, subject.body, marked=case)
    face = case.inner(0, 0, lerp(0.58, 0.68, rim))
    face.add(CIRCLE, CREAM)
    for turn in range(0, 360, 90):
        face.inner(0, 0, 1, angle=turn).add(limb((0, -0.82), (0, -0.72), 0.07), INK, detail=True, same=turn > 0)
    face.inner(0, 0, 1, angle=360 * pose).add(limb((0, 0), (0, -0.65), 0.07), INK, detail=True)
    short = limb((0, 0), (0, -lerp(0.35, 0.5, hand)), 0.09)
    face.inner(0, 0, 1, angle=120 + 90 * pose).add(short, subject.second, detail=True)
    face.add(ellipse(0, 0, 0.12), INK, detail=True)
    figure.top, figure.face = case.inner(0, -1.0, 0.5), case.inner(0, -0.12, 0.4)


def vase(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a vase. Shape: belly, neck, flowers, lip. The pose sways the flowers and leans the vase."""
    belly, neck, bloom, lip = subject.shape
    pot = figure.inner(0, 0.42, 1, angle=8 * swing(pose))
    wide, narrow, mouth = lerp(0.46, 0.6, belly), lerp(0.18, 0.28, neck), lerp(0.28, 0.38, lip)
    for turn, length in ((-34, 0.62), (0, 0.8), (34, 0.62)):
        stem = pot.inner(0, -0.5, 1, angle=turn * lerp(0.8, 1.15, pose) + 12 * swing(pose, 1.5))
        stem.add(limb((0, 0.1), (0, -length + 0.2), 0.04), LEAF)
        size = lerp(0.2, 0.25, bloom)
        add_petals(stem.inner(0, -length + 0.12, size), -0.6, 0.45, subject.second)
        eye = CREAM if subject.second != CREAM else INK
        stem.add(ellipse(0, -length + 0.12, size * 0.42), eye, detail=True)
    side = ((mouth, -0.56), (narrow, -0.36), (wide * 0.8, -0.12), (wide, 0.16), (wide * 0.75, 0.46), (0.26, 0.56))
    pot.add(smooth(mirrored(side), steps=4), subject.body, marked=pot.inner(0, 0.14, wide, 0.42))
    pot.add(limb((-mouth + 0.04, -0.56), (mouth - 0.04, -0.56), 0.07), shade(subject.body))
    figure.top, figure.face = pot.inner(0, -0.58, 0.34), pot.inner(0, 0.06, 0.25)


def can(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a drinks can. Shape: width, rim, straw, bend. The pose turns the straw and leans the can."""
    width, rim, straw, bend = subject.shape
    tin = figure.inner(0, 0.28, 1, angle=16 * swing(pose))
    wide = lerp(0.42, 0.54, width)
    edge, tip = wide * lerp(0.8, 0.9, rim), 0.5 * swing(pose, 0.75) + 0.15
    line = ((0.1, -0.6), (0.14 + 0.3 * tip, -0.95), (0.2 + 0.5 * tip, -1.05), (lerp(0.3, 0.5, bend) + 0.5 * tip, -1.1))
    tin.add(limb((-edge + 0.05, 0.7), (edge - 0.05, 0.7), 0.07), STEEL)
    tin.add(ellipse(0, -0.68, edge, 0.14), STEEL)
    tin.add(ellipse(0, -0.7, edge * 0.8, 0.08), shade(STEEL, 0.7), detail=True)
    tin.add(stroke(line, lerp(0.06, 0.08, straw)), subject.second)
    sides = mirrored(((edge, -0.66), (wide, -0.52), (wide, 0.56), (edge, 0.7)))
    lower_rim = ellipse(0, -0.66, edge, 0.1)[13:0:-1] * (-1, 1)
    tin.add(np.concatenate((sides, lower_rim)), subject.body, marked=tin.inner(0, 0.04, wide, 0.6))
    tin.add(limb((-wide + 0.05, 0.58), (wide - 0.05, 0.58), 0.05), subject.second)
    figure.top, figure.face = tin.inner(0, -0.74, 0.38), tin.inner(0, -0.15, 0.24)
