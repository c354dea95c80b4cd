"""Draw animals. Each function draws one kind; the subject's four proportions are named where they are read."""

from __future__ import annotations

from miniature.figure import (
    CIRCLE,
    INK,
    Figure,
    Frame,
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
    stroke,
    swing,
)
from miniature.subjects import RGB, Subject

SITTING = 0.6  # poses from here on sit; those below stand or walk


def dog(subject: Subject, pose: float) -> Figure:
    """Draw a dog. Shape: ear length, snout, tail, plumpness."""
    ear, snout, tail, plump = subject.shape
    figure = Figure()
    wag = 25 * swing(pose, 3)
    _trunk(figure, subject, pose, lerp(0.30, 0.40, plump), lerp(0.35, 0.6, tail), wag, curl=0.15)
    head = _head(figure, pose, lerp(0.40, 0.44, plump))
    skull = head.inner(0, 0, 1.08, 0.95)
    figure.add(skull.at(CIRCLE), subject.body)
    for side in (-1, 1):
        drop = lerp(0.45, 1.05, ear)
        flap = ((side * 0.62, -0.82), (side * 1.12, -0.55), (side * 1.32, -0.5 + drop), (side * 1.0, -0.42 + drop))
        figure.add(head.at(smooth((*flap, (side * 0.8, -0.25)))), subject.second)
    muzzle = head.inner(0, 0.42, lerp(0.42, 0.58, snout), lerp(0.34, 0.44, snout))
    figure.add(muzzle.at(CIRCLE), _pale(subject))
    figure.add(head.at(ellipse(0, 0.24, 0.2, 0.14)), INK, detail=True)
    add_smile(figure, head, 0, 0.56, 0.2, INK)
    add_eyes(figure, head, 0.42, -0.12, 0.14, subject.body)
    return figure


def cat(subject: Subject, pose: float) -> Figure:
    """Draw a cat. Shape: ear height, cheeks, tail length, plumpness."""
    ear, cheek, tail, plump = subject.shape
    figure = Figure()
    _trunk(figure, subject, pose, lerp(0.27, 0.36, plump), lerp(0.6, 0.85, tail), 18 * swing(pose, 2), curl=0.9)
    head = _head(figure, pose, lerp(0.40, 0.44, plump))
    for side in (-1, 1):
        tip = (side * 0.82, lerp(-1.2, -1.5, ear))
        figure.add(head.at(smooth(((side * 0.98, -0.2), tip, (side * 0.15, -0.75)), steps=3)), subject.body)
        inside = (side * 0.78, lerp(-1.02, -1.25, ear))
        figure.add(head.at(smooth(((side * 0.84, -0.4), inside, (side * 0.38, -0.75)), steps=3)), subject.second)
    figure.add(head.at(ellipse(0, 0, lerp(1.0, 1.15, cheek), 0.88)), subject.body)
    ink = ink_on(subject.body)
    figure.add(head.at(ellipse(0, 0.36, 0.46, 0.32)), _pale(subject))
    for side in (-1, 1):
        for y in (0.2, 0.42):
            whisker = ((side * 0.62, y), (side * 1.3, y + 0.6 * (y - 0.25)))
            figure.add(head.at(limb(*whisker, 0.035)), ink, detail=True)
    figure.add(head.at(smooth(((-0.14, 0.16), (0.14, 0.16), (0, 0.32)), steps=3)), INK, detail=True)
    add_smile(figure, head, 0, 0.46, 0.18, INK)
    add_eyes(figure, head, 0.44, -0.12, 0.16, subject.body)
    return figure


def rabbit(subject: Subject, pose: float) -> Figure:
    """Draw a rabbit. Shape: ear length, cheeks, feet, plumpness. It faces the eye; the pose lifts paws, bends ears."""
    ear, cheek, feet, plump = subject.shape
    figure = Figure()
    body, lift = subject.body, swing(pose)
    trunk = frame(0, 0.48, lerp(0.42, 0.54, plump), 0.5, angle=8 * swing(pose, 0.5))
    figure.add(ellipse(0.48 * (1 if pose < 0.5 else -1), 0.72, 0.16), _pale(subject))
    for side in (-1, 1):
        figure.add(ellipse(side * 0.34, 0.92, lerp(0.2, 0.28, feet), 0.12), shade(body))
    figure.add(trunk.at(CIRCLE), body, marked=trunk)
    for side in (-1, 1):
        reach = (side * (0.55 + 0.05 * lift * side), 0.52 - 0.34 * max(side * lift, -0.3))
        figure.add(limb((side * 0.36, 0.25), reach, 0.1, 0.11), shade(body))
    head = frame(0.04 * lift, -0.18, 0.42, angle=14 * swing(pose, 1.5))
    for side in (-1, 1):
        bend = 14 + 26 * max(0.0, side * swing(pose, 2))
        lobe = head.inner(side * 0.42, -0.62, 1, angle=side * bend)
        height = lerp(0.6, 0.8, ear)
        figure.add(lobe.at(ellipse(0, -height * 0.8, 0.28, height)), body)
        figure.add(lobe.at(ellipse(0, -height * 0.8, 0.16, height * 0.72)), subject.second)
    figure.add(head.at(ellipse(0, 0, 1.0, 0.88)), body)
    for side in (-1, 1):
        figure.add(head.at(ellipse(side * 0.26, 0.38, lerp(0.28, 0.36, cheek), 0.24)), _pale(subject), same=side > 0)
    figure.add(head.at(ellipse(0, 0.22, 0.13, 0.1)), subject.second, detail=True)
    figure.add(head.at(limb((0, 0.36), (0, 0.52), 0.04)), INK, detail=True)
    add_eyes(figure, head, 0.46, -0.1, 0.15, body)
    figure.top, figure.sides = head.inner(0, -0.78, 0.62), head.inner(0, 0, 1.0)
    figure.neck = frame(0, 0.18, 0.34)
    return figure


def bird(subject: Subject, pose: float) -> Figure:
    """Draw a bird. Shape: beak, tail, crest, plumpness. The pose beats the wing and turns the body."""
    beak, tail, crest, plump = subject.shape
    figure = Figure()
    lean = 10 * swing(pose, 0.5)
    body, flap = subject.body, swing(pose)
    for shift, step in ((-0.08, 1), (0.16, -1)):
        foot = (shift + 0.1 * step * swing(pose, 2), 0.98)
        figure.add(limb((shift + 0.06, 0.5), foot, 0.05), COMB)
        figure.add(limb((foot[0] - 0.16, 0.98), (foot[0] + 0.1, 0.98), 0.05), COMB, same=True)
    trunk = frame(0.1, 0.16, 0.62, lerp(0.46, 0.56, plump), angle=-18 + lean)
    for turn in (-10, 8):
        figure.add(
            trunk.inner(0.75, 0.05, 1, angle=turn + 8 * flap).at(limb((0, 0), (lerp(0.5, 0.8, tail), 0), 0.14)),
            shade(body),
        )
    figure.add(trunk.at(CIRCLE), body, marked=trunk.inner(-0.05, 0.1))
    head = frame(-0.38, -0.4, 0.38, angle=lean + 12 * swing(pose, 1.5))
    for turn in (-30, 0, 30):
        figure.add(
            head.inner(0.1, -0.8, 1, angle=turn).at(ellipse(0, -0.1, 0.12, lerp(0.2, 0.55, crest))), subject.second
        )
    figure.add(head.at(CIRCLE), body)
    reach = lerp(-1.4, -1.75, beak)
    figure.add(head.at(smooth(((-0.78, -0.18), (reach, 0.12), (-0.75, 0.38)), steps=3)), COMB)
    figure.add(head.at(ellipse(0.05, 0.38, 0.2, 0.13)), PINK_CHEEK, detail=True)
    add_eye(figure, head, -0.28, -0.1, 0.17, body)
    wing = trunk.inner(0.2, -0.1, 1, angle=40 * flap + 10)
    figure.add(
        wing.at(smooth(((-0.3, -0.1), (0.0, -0.38), (0.45, -0.3), (0.85, 0.05), (0.3, 0.3), (-0.2, 0.25)))),
        subject.second,
    )
    figure.top, figure.sides = head.inner(0.05, -0.82, 0.75), head.inner(0.05, 0, 0.95)
    figure.face, figure.neck = head.inner(-0.25, -0.1, 0.42), frame(-0.22, -0.08, 0.38, angle=-25)
    return figure


def fish(subject: Subject, pose: float) -> Figure:
    """Draw a fish. Shape: tail, fin height, length, lips. The pose beats the tail and the fins."""
    tail, fin, length, lips = subject.shape
    figure = Figure(floats=True)
    body, beat = subject.body, swing(pose)
    trunk = frame(-0.12, 0.05, lerp(0.66, 0.74, length), lerp(0.56, 0.48, length), angle=8 * swing(pose, 0.5))
    spread = lerp(0.42, 0.6, tail)
    fluke = trunk.inner(0.85, 0, 1 - 0.25 * abs(beat), angle=24 * beat)
    figure.add(
        fluke.at(smooth(((0, 0), (0.62, -spread * 1.3), (0.45, 0), (0.62, spread * 1.3)), steps=4)), subject.second
    )
    height = lerp(0.35, 0.6, fin)
    back = trunk.inner(0.0, -0.8, 1, angle=10 * beat)
    figure.add(back.at(smooth(((-0.42, 0.1), (-0.1, -height), (0.5, -height * 0.7), (0.45, 0.2)))), subject.second)
    figure.add(
        trunk.inner(0.1, 0.85, 1, angle=-14 * beat).at(smooth(((-0.15, -0.1), (0.12, 0.4), (0.4, 0.3), (0.25, -0.1)))),
        subject.second,
    )
    for y in (0.16, 0.34):
        figure.add(trunk.at(ellipse(-0.95, y, lerp(0.1, 0.15, lips), 0.11)), PINK_CHEEK, same=y > 0.2)
    figure.add(trunk.at(CIRCLE), body, marked=trunk.inner(0.28, 0, 0.72, 0.95))
    figure.add(
        trunk.inner(0.12, 0.25, 1, angle=30 * beat).at(smooth(((-0.1, -0.15), (0.4, 0.0), (0.3, 0.35), (0.0, 0.2)))),
        subject.second,
    )
    eye = trunk.inner(-0.52, -0.18, 1)
    figure.add(eye.at(ellipse(0, 0, 0.2, 0.27)), (1.0, 1.0, 1.0), detail=True)
    figure.add(eye.at(ellipse(-0.03, 0, 0.12, 0.17)), INK, detail=True)
    figure.face = trunk.inner(-0.36, -0.18, 0.3, 0.42)
    figure.top = trunk.inner(-0.35, -0.84, 0.5, 0.65, angle=-14)
    return figure


def turtle(subject: Subject, pose: float) -> Figure:
    """Draw a turtle. Shape: shell height, neck, head, tail. The pose walks, and stretches the neck."""
    shell, neck, head_size, tail = subject.shape
    figure = Figure()
    skin, step, stretch = subject.second, swing(pose), 0.5 + 0.5 * swing(pose, 0.75)
    figure.add(limb((0.6, 0.62), (lerp(0.85, 1.05, tail), 0.6 + 0.1 * step), 0.09, 0.03), skin)
    for x, phase in ((-0.3, 1), (0.52, -1)):
        figure.add(limb((x, 0.55), (x + 0.14 * phase * step, 0.88), 0.13, 0.14), shade(skin))
    throat = (-0.72 - 0.1 * stretch, lerp(0.15, -0.1, neck) - 0.22 * stretch)
    figure.add(limb((-0.4, 0.52), throat, 0.17, 0.14), skin)
    head = frame(*throat, lerp(0.28, 0.34, head_size), angle=18 * swing(pose))
    figure.add(head.at(ellipse(-0.1, -0.1, 1.05, 0.9)), skin)
    add_eye(figure, head, -0.4, -0.25, 0.2, skin)
    add_smile(figure, head, -0.6, 0.3, 0.25, ink_on(skin))
    for x, phase in ((-0.42, -1), (0.4, 1)):
        figure.add(limb((x, 0.58), (x + 0.16 * phase * step, 0.92), 0.15, 0.16), skin)
    height = lerp(0.68, 0.92, shell)
    dome = (
        (-0.68, 0.62),
        (-0.56, 0.62 - 0.62 * height),
        (0.02, 0.62 - 1.05 * height),
        (0.6, 0.62 - 0.62 * height),
        (0.74, 0.62),
    )
    figure.add(
        smooth((*dome, (0.4, 0.7), (-0.35, 0.7))),
        subject.body,
        marked=frame(0.03, 0.62 - 0.45 * height, 0.62, 0.5 * height),
    )
    figure.add(limb((-0.64, 0.64), (0.72, 0.64), 0.08), shade(subject.body, 0.7))
    figure.top, figure.sides = head.inner(-0.1, -0.88, 0.85), head.inner(-0.1, 0, 0.95)
    figure.face = head.inner(-0.4, -0.25, 0.5)
    figure.neck = frame((throat[0] - 0.5) / 2, (throat[1] + 0.4) / 2, 0.22, angle=-20)
    return figure


COMB: RGB = (0.97, 0.62, 0.16)
PINK_CHEEK: RGB = (0.96, 0.52, 0.56)


def _pale(subject: Subject) -> RGB:
    """Return the body's colour, much lighter, for muzzles and tails; a light body keeps a tint, to be seen."""
    mix = 0.62 if max(subject.body) < 0.97 or min(subject.body) < 0.7 else -0.1
    red, green, blue = (channel + (1 - channel) * mix if mix > 0 else channel + mix for channel in subject.body)
    return (red, green, blue)


def _head(figure: Figure, pose: float, size: float) -> Frame:
    """Draw a four-legged animal's head, facing the eye, with the anchors of what it wears."""
    sits = pose >= SITTING
    head = frame(
        -0.26 if sits else -0.44, -0.26 + (0.0 if sits else 0.06 * swing(pose, 2)), size, angle=13 * swing(pose, 2.5)
    )
    figure.top, figure.sides = head.inner(0, -0.82, 0.72), head.inner(0, -0.05, 1.05)
    x, y = head.point(0.08, 0.98)
    figure.neck = frame(x, y, 0.32, angle=-8)
    return head


def _trunk(figure: Figure, subject: Subject, pose: float, girth: float, tail: float, wag: float, curl: float) -> None:
    """Draw body, legs and tail of a four-legged animal, walking or sitting."""
    if pose >= SITTING:
        _sitting(figure, subject, pose, girth, tail, wag, curl)
    else:
        _walking(figure, subject, pose, girth, tail, wag, curl)


def _tail(figure: Figure, subject: Subject, root: Frame, length: float, curl: float) -> None:
    line = ((0, 0), (0.45 * length, -0.12 * length), (0.8 * length, -0.5 * length))
    tip = (0.8 * length + 0.2 * length * (1 - 2 * curl), -0.95 * length)
    figure.add(root.at(stroke((*line, tip), 0.1, 0.07)), subject.body)


def _walking(figure: Figure, subject: Subject, pose: float, girth: float, tail: float, wag: float, curl: float) -> None:
    body, step = subject.body, swing(pose, 2.2)
    _tail(figure, subject, frame(0.62, 0.2, 1, angle=wag), tail, curl)
    for x, phase in ((-0.12, 1), (0.62, -1)):
        figure.add(limb((x, 0.42), (x + 0.2 * phase * step, 0.88), 0.13, 0.1), shade(body))
    trunk = frame(0.2, 0.26, 0.6, girth, angle=4 * step)
    figure.add(trunk.at(rounded(2.6)), body, marked=trunk.inner(0.12, -0.02, 0.9, 1))
    for x, phase in ((-0.28, -1), (0.52, 1)):
        foot = (x + 0.22 * phase * step, 0.9)
        figure.add(limb((x, 0.42), foot, 0.14, 0.11), body)
        figure.add(ellipse(foot[0] - 0.05, 0.92, 0.15, 0.09), subject.second)


def _sitting(figure: Figure, subject: Subject, pose: float, girth: float, tail: float, wag: float, curl: float) -> None:
    body, lift = subject.body, max(0.0, swing(pose, 2.5))
    _tail(figure, subject, frame(0.5, 0.78, 1, angle=wag + 25), tail, curl)
    figure.add(limb((-0.16, 0.35), (-0.3, 0.9), 0.12, 0.1), shade(body))
    trunk = frame(0.14, 0.38, 0.56, girth + 0.06, angle=62)
    figure.add(trunk.at(rounded(2.6)), body, marked=trunk.inner(0.05, -0.1, 0.95, 0.95))
    figure.add(ellipse(0.42, 0.72, 0.28, 0.25), body)
    figure.add(ellipse(0.24, 0.92, 0.2, 0.1), subject.second)
    paw = (-0.12 - 0.3 * lift, 0.9 - 0.3 * lift)
    figure.add(limb((-0.04, 0.4), paw, 0.13, 0.11), body)
    figure.add(ellipse(paw[0] - 0.04, paw[1] + 0.03, 0.14, 0.09), subject.second)
