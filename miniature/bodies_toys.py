"""Draw toys: they face the eye, and the pose moves their arms, legs and heads."""

from __future__ import annotations

from miniature.figure import (
    CIRCLE,
    INK,
    SQUARE,
    WHITE,
    Figure,
    add_eye,
    add_eyes,
    add_smile,
    ellipse,
    frame,
    ink_on,
    lerp,
    limb,
    rounded,
    shade,
    smooth,
    swing,
)
from miniature.subjects import RGB, Subject

STEEL: RGB = (0.72, 0.74, 0.78)
LAMP: RGB = (0.99, 0.86, 0.36)


def robot(subject: Subject, pose: float) -> Figure:
    """Draw a robot. Shape: head width, antenna, arms, chest. The pose lifts the arms in turn and steps."""
    head_width, antenna, arm, chest = subject.shape
    figure = Figure()
    body, second, lift = subject.body, subject.second, swing(pose)
    for side in (-1, 1):
        foot = (side * 0.24 + 0.1 * swing(pose, 2), 0.86 - 0.1 * max(0.0, side * lift))
        figure.add(limb((side * 0.22, 0.5), foot, 0.1), STEEL)
        figure.add(frame(foot[0] + side * 0.04, foot[1] + 0.04, 0.2, 0.1).at(rounded(4)), second)
        hand = (side * lerp(0.82, 0.95, arm), 0.2 - 0.5 * side * lift)
        figure.add(limb((side * 0.5, 0.05), hand, 0.09), second)
        figure.add(ellipse(*hand, 0.15), second)
    wide = lerp(0.46, 0.54, chest)
    trunk = frame(0, 0.24, wide, 0.4)
    figure.add(frame(0, -0.18, 0.14, 0.12).at(SQUARE), STEEL)
    figure.add(trunk.at(rounded(6)), body, marked=trunk)
    head = frame(0, -0.5, 1, angle=12 * swing(pose, 1.5))
    figure.add(head.at(limb((0, -0.25), (0, lerp(-0.42, -0.54, antenna)), 0.035)), STEEL)
    figure.add(head.at(ellipse(0, lerp(-0.45, -0.56, antenna), 0.09)), LAMP)
    across = lerp(0.42, 0.52, head_width)
    for side in (-1, 1):
        figure.add(head.inner(side * across, 0, 0.09, 0.13).at(rounded(4)), second)
    figure.add(head.inner(0, 0, across, 0.32).at(rounded(6)), body)
    figure.add(head.inner(0, -0.04, across * 0.8, 0.17).at(rounded(5)), INK)
    for side in (-1, 1):
        figure.add(head.at(ellipse(side * across * 0.42, -0.04, 0.095)), LAMP, detail=True)
    figure.add(head.inner(0, 0.21, 0.2, 0.05).at(SQUARE), ink_on(body), detail=True)
    figure.top, figure.sides = head.inner(0, -0.3, 0.36), head.inner(0, 0, across + 0.02, 0.4)
    figure.face, figure.neck = head.inner(0, -0.04, across * 0.46), frame(0, -0.14, 0.36)
    return figure


def bear(subject: Subject, pose: float) -> Figure:
    """Draw a bear. Shape: ears, muzzle, arms, plumpness. The pose lifts the arms in turn and swings the legs."""
    ear, muzzle, arm, plump = subject.shape
    figure = Figure()
    body, second, lift = subject.body, subject.second, swing(pose)
    wide = lerp(0.42, 0.54, plump)
    for side in (-1, 1):
        spread = 0.12 * swing(pose, 1.5)
        foot = (side * (0.46 + spread), 0.84)
        figure.add(limb((side * 0.26, 0.62), foot, 0.18), shade(body, 0.88))
        figure.add(ellipse(*foot, 0.14), second)
    trunk = frame(0, 0.42, wide, 0.46)
    figure.add(trunk.at(CIRCLE), body, marked=trunk)
    for side in (-1, 1):
        hand = (side * (wide + lerp(0.14, 0.26, arm)), 0.38 - 0.38 * side * lift)
        figure.add(limb((side * (wide - 0.08), 0.2), hand, 0.13, 0.14), shade(body, 0.88))
        figure.add(ellipse(*hand, 0.09), second, detail=True)
    head = frame(0.02 * lift, -0.36, 0.45, angle=14 * swing(pose, 1.5))
    for side in (-1, 1):
        figure.add(head.at(ellipse(side * 0.76, -0.7, lerp(0.3, 0.42, ear))), body)
        figure.add(head.at(ellipse(side * 0.76, -0.7, lerp(0.17, 0.25, ear))), second)
    figure.add(head.at(ellipse(0, 0, 1.08, 0.95)), body)
    figure.add(head.at(ellipse(0, 0.38, lerp(0.38, 0.5, muzzle), 0.34)), CREAM)
    figure.add(head.at(ellipse(0, 0.22, 0.17, 0.12)), INK, detail=True)
    add_smile(figure, head, 0, 0.5, 0.18, INK)
    add_eyes(figure, head, 0.44, -0.12, 0.13, body)
    figure.top, figure.sides = head.inner(0, -0.84, 0.72), head.inner(0, 0, 1.08)
    figure.neck = frame(0, 0.07, 0.38)
    return figure


CREAM: RGB = (0.99, 0.93, 0.82)


def duck(subject: Subject, pose: float) -> Figure:
    """Draw a bath duck on its way. Shape: beak, tail, head, plumpness. The pose beats the wing and rocks the duck."""
    beak, tail, head_size, plump = subject.shape
    figure = Figure()
    body = subject.body
    rock = frame(0, 0.3, 1, angle=10 * swing(pose))
    deep = lerp(0.5, 0.6, plump)
    hull = (
        (-0.72, -0.02),
        (-0.3, -0.22),
        (0.3, -0.14),
        (0.62, -0.2),
        (lerp(0.86, 0.98, tail), lerp(-0.35, -0.5, tail)),
        (0.9, 0.1),
        (0.62, deep - 0.06),
        (0, deep + 0.06),
        (-0.58, deep - 0.1),
    )
    figure.add(rock.at(smooth(hull, steps=5)), body, marked=rock.inner(-0.2, 0.2, 0.62, 0.42))
    head = rock.inner(-0.38, -0.5, lerp(0.4, 0.46, head_size), angle=-12 * swing(pose, 1.5))
    figure.add(head.at(CIRCLE), body)
    reach = lerp(-1.35, -1.65, beak)
    gape = 0.14 * (0.5 + 0.5 * swing(pose, 2))
    figure.add(
        head.at(smooth(((-0.7, 0.15), (reach + 0.1, 0.3 + gape), (-0.62, 0.52 + gape)), steps=4)), shade(subject.second)
    )
    figure.add(
        head.at(smooth(((-0.75, -0.12), (reach, 0.12), (reach + 0.05, 0.24), (-0.68, 0.32)), steps=4)), subject.second
    )
    add_eye(figure, head, -0.32, -0.2, 0.16, body)
    wing = rock.inner(0.26, -0.02, 0.9, angle=-28 * max(0.0, swing(pose, 1.5)))
    figure.add(
        wing.at(smooth(((-0.2, 0.02), (0.15, -0.12), (0.62, -0.06), (0.5, 0.14), (0.42, 0.26), (0.02, 0.28)), steps=5)),
        shade(body, 0.86),
    )
    figure.top, figure.sides = head.inner(0, -0.85, 0.72), head.inner(0, 0, 1.0)
    figure.face, figure.neck = head.inner(-0.3, -0.2, 0.42), rock.inner(-0.36, -0.14, 0.36)
    return figure


def monster(subject: Subject, pose: float) -> Figure:
    """Draw a monster. Shape: horns, number of eyes, legs, height.

    The pose waves the arms, opens the mouth and leans.
    """
    horn, eyes, legs, height = subject.shape
    figure = Figure()
    body, second, lift = subject.body, subject.second, swing(pose)
    count = 2 + round(2 * legs)
    for index in range(count):
        x = lerp(-0.42, 0.42, index / (count - 1))
        figure.add(limb((x, 0.5), (x + 0.08 * swing(pose + index / count, 2), 0.88), 0.13, 0.14), shade(body))
    trunk = frame(0, 0.08, 0.62, lerp(0.66, 0.78, height), angle=9 * swing(pose, 1.5))
    for side in (-1, 1):
        tip = (side * lerp(0.68, 0.9, horn), lerp(-1.2, -1.4, horn))
        figure.add(trunk.at(smooth(((side * 0.25, -0.88), tip, (side * 0.78, -0.6)), steps=4)), second)
        hand = (side * 0.9, 0.2 - 0.55 * side * lift)
        figure.add(limb((side * 0.52, 0.15), hand, 0.11, 0.13), shade(body))
    figure.add(trunk.at(rounded(2.5)), body, marked=trunk.inner(0, 0.55, 0.95, 0.42))
    centres = ((0.0,), (-0.36, 0.36), (-0.52, 0.0, 0.52))[min(2, int(eyes * 3))]
    size = (0.36, 0.26, 0.22)[len(centres) - 1]
    for x in centres:
        eye = trunk.inner(x, -0.42, size, size * 0.62 / lerp(0.66, 0.78, height))
        figure.add(eye.at(CIRCLE), WHITE, detail=True)
        figure.add(eye.at(ellipse(0.25 * lift, 0.05, 0.5)), INK, detail=True)
    mouth = trunk.inner(0, 0.1, 0.42, 0.1 + 0.1 * abs(swing(pose, 1.5)))
    figure.add(mouth.at(rounded(3)), INK, detail=True)
    for x in (-0.45, 0.45):
        figure.add(
            mouth.at(smooth(((x - 0.22, -0.95), (x + 0.22, -0.95), (x, 0.3)), steps=2)), WHITE, detail=True, same=x > 0
        )
    figure.top, figure.sides = trunk.inner(0, -0.95, 0.45, 0.45), trunk.inner(0, -0.35, 0.98, 0.8)
    figure.face, figure.neck = trunk.inner(0, -0.42, 0.42), trunk.inner(0, 0.42, 0.85, 0.6)
    return figure
