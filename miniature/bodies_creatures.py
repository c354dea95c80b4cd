"""Draw animals and toys. Each function draws one kind; its four proportions are named where they are read."""

from __future__ import annotations

from miniature.figure import (
    CIRCLE,
    INK,
    SQUARE,
    STEEL,
    WHITE,
    Figure,
    Place,
    add_eye,
    add_eyes,
    add_smile,
    ellipse,
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
COMB: RGB = (0.97, 0.62, 0.16)
PINK_CHEEK: RGB = (0.96, 0.52, 0.56)
LAMP: RGB = (0.99, 0.86, 0.36)
CREAM: RGB = (0.99, 0.93, 0.82)


def dog(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a dog. Shape: ear length, snout, tail, plumpness."""
    ear, snout, tail, plump = subject.shape
    _trunk(figure, subject, pose, lerp(0.30, 0.40, plump), lerp(0.35, 0.6, tail), 25 * swing(pose, 3), curl=0.15)
    head = _head(figure, pose, lerp(0.40, 0.44, plump))
    head.inner(0, 0, 1.08, 0.95).add(CIRCLE, subject.body)
    drop = lerp(0.45, 1.05, ear)
    for side in (-1, 1):
        flap = ((side * 0.62, -0.82), (side * 1.12, -0.55), (side * 1.32, -0.5 + drop), (side * 1.0, -0.42 + drop))
        head.add(smooth((*flap, (side * 0.8, -0.25))), subject.second)
    head.inner(0, 0.42, lerp(0.42, 0.58, snout), lerp(0.34, 0.44, snout)).add(CIRCLE, _pale(subject))
    head.add(ellipse(0, 0.24, 0.2, 0.14), INK, detail=True)
    add_smile(head, 0, 0.56, 0.2, INK)
    add_eyes(head, 0.42, -0.12, 0.14, subject.body)


def cat(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a cat. Shape: ear height, cheeks, tail length, plumpness."""
    ear, cheek, tail, plump = subject.shape
    _trunk(figure, subject, pose, lerp(0.27, 0.36, plump), lerp(0.6, 0.85, tail), 18 * swing(pose, 2), curl=0.9)
    head = _head(figure, pose, lerp(0.40, 0.44, plump))
    for side in (-1, 1):
        tip, inside = (side * 0.82, lerp(-1.2, -1.5, ear)), (side * 0.78, lerp(-1.02, -1.25, ear))
        head.add(smooth(((side * 0.98, -0.2), tip, (side * 0.15, -0.75)), steps=3), subject.body)
        head.add(smooth(((side * 0.84, -0.4), inside, (side * 0.38, -0.75)), steps=3), subject.second)
    head.add(ellipse(0, 0, lerp(1.0, 1.15, cheek), 0.88), subject.body)
    head.add(ellipse(0, 0.36, 0.46, 0.32), _pale(subject))
    for side in (-1, 1):
        for y in (0.2, 0.42):
            whisker = limb((side * 0.62, y), (side * 1.3, y + 0.6 * (y - 0.25)), 0.035)
            head.add(whisker, ink_on(subject.body), detail=True)
    head.add(smooth(((-0.14, 0.16), (0.14, 0.16), (0, 0.32)), steps=3), INK, detail=True)
    add_smile(head, 0, 0.46, 0.18, INK)
    add_eyes(head, 0.44, -0.12, 0.16, subject.body)


def rabbit(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a rabbit. Shape: ear length, cheeks, feet, plumpness. It faces the eye; the pose lifts paws, bends ears."""
    ear, cheek, feet, plump = subject.shape
    body, lift = subject.body, swing(pose)
    trunk = figure.inner(0, 0.48, lerp(0.42, 0.54, plump), 0.5, angle=8 * swing(pose, 0.5))
    figure.add(ellipse(0.48 * (1 if pose < 0.5 else -1), 0.72, 0.16), _pale(subject))
    for side in (-1, 1):
        figure.add(ellipse(side * 0.34, 0.92, lerp(0.2, 0.28, feet), 0.12), shade(body))
    trunk.add(CIRCLE, body, marked=trunk)
    for side in (-1, 1):
        reach = (side * (0.55 + 0.05 * lift * side), 0.52 - 0.34 * max(side * lift, -0.3))
        figure.add(limb((side * 0.36, 0.25), reach, 0.1, 0.11), shade(body))
    head = figure.inner(0.04 * lift, -0.18, 0.42, angle=14 * swing(pose, 1.5))
    height = lerp(0.6, 0.8, ear)
    for side in (-1, 1):
        lobe = head.inner(side * 0.42, -0.62, 1, angle=side * (14 + 26 * max(0.0, side * swing(pose, 2))))
        lobe.add(ellipse(0, -height * 0.8, 0.28, height), body)
        lobe.add(ellipse(0, -height * 0.8, 0.16, height * 0.72), subject.second)
    head.add(ellipse(0, 0, 1.0, 0.88), body)
    for side in (-1, 1):
        head.add(ellipse(side * 0.26, 0.38, lerp(0.28, 0.36, cheek), 0.24), _pale(subject), same=side > 0)
    head.add(ellipse(0, 0.22, 0.13, 0.1), subject.second, detail=True)
    head.add(limb((0, 0.36), (0, 0.52), 0.04), INK, detail=True)
    add_eyes(head, 0.46, -0.1, 0.15, body)
    figure.top, figure.sides = head.inner(0, -0.78, 0.62), head.inner(0, 0, 1.0)
    figure.neck = figure.inner(0, 0.18, 0.34)


def bird(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a bird. Shape: beak, tail, crest, plumpness. The pose beats the wing and turns the body."""
    beak, tail, crest, plump = subject.shape
    body, flap, lean = subject.body, swing(pose), 10 * swing(pose, 0.5)
    for shift, step in ((-0.08, 1), (0.16, -1)):
        foot = (shift + 0.1 * step * swing(pose, 2), 0.98)
        figure.add(limb((shift + 0.06, 0.5), foot, 0.05), COMB)
        figure.add(limb((foot[0] - 0.16, 0.98), (foot[0] + 0.1, 0.98), 0.05), COMB, same=True)
    trunk = figure.inner(0.1, 0.16, 0.62, lerp(0.46, 0.56, plump), angle=-18 + lean)
    for turn in (-10, 8):
        feather = limb((0, 0), (lerp(0.5, 0.8, tail), 0), 0.14)
        trunk.inner(0.75, 0.05, 1, angle=turn + 8 * flap).add(feather, shade(body))
    trunk.add(CIRCLE, body, marked=trunk.inner(-0.05, 0.1))
    head = figure.inner(-0.38, -0.4, 0.38, angle=lean + 12 * swing(pose, 1.5))
    for turn in (-30, 0, 30):
        plume = ellipse(0, -0.1, 0.12, lerp(0.2, 0.55, crest))
        head.inner(0.1, -0.8, 1, angle=turn).add(plume, subject.second)
    head.add(CIRCLE, body)
    head.add(smooth(((-0.78, -0.18), (lerp(-1.4, -1.75, beak), 0.12), (-0.75, 0.38)), steps=3), COMB)
    head.add(ellipse(0.05, 0.38, 0.2, 0.13), PINK_CHEEK, detail=True)
    add_eye(head, -0.28, -0.1, 0.17, body)
    wing = smooth(((-0.3, -0.1), (0.0, -0.38), (0.45, -0.3), (0.85, 0.05), (0.3, 0.3), (-0.2, 0.25)))
    trunk.inner(0.2, -0.1, 1, angle=40 * flap + 10).add(wing, subject.second)
    figure.top, figure.sides = head.inner(0.05, -0.82, 0.75), head.inner(0.05, 0, 0.95)
    figure.face, figure.neck = head.inner(-0.25, -0.1, 0.42), figure.inner(-0.22, -0.08, 0.38, angle=-25)


def fish(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a fish. Shape: tail, fin height, length, lips. The pose beats the tail and the fins."""
    tail, fin, length, lips = subject.shape
    figure.floats = True
    second, beat = subject.second, swing(pose)
    trunk = figure.inner(-0.12, 0.05, lerp(0.66, 0.74, length), lerp(0.56, 0.48, length), angle=8 * swing(pose, 0.5))
    spread, height = lerp(0.42, 0.6, tail), lerp(0.35, 0.6, fin)
    fluke = trunk.inner(0.85, 0, 1 - 0.25 * abs(beat), angle=24 * beat)
    fluke.add(smooth(((0, 0), (0.62, -spread * 1.3), (0.45, 0), (0.62, spread * 1.3)), steps=4), second)
    back = trunk.inner(0.0, -0.8, 1, angle=10 * beat)
    back.add(smooth(((-0.42, 0.1), (-0.1, -height), (0.5, -height * 0.7), (0.45, 0.2))), second)
    belly = trunk.inner(0.1, 0.85, 1, angle=-14 * beat)
    belly.add(smooth(((-0.15, -0.1), (0.12, 0.4), (0.4, 0.3), (0.25, -0.1))), second)
    for y in (0.16, 0.34):
        trunk.add(ellipse(-0.95, y, lerp(0.1, 0.15, lips), 0.11), PINK_CHEEK, same=y > 0.2)
    trunk.add(CIRCLE, subject.body, marked=trunk.inner(0.28, 0, 0.72, 0.95))
    breast = trunk.inner(0.12, 0.25, 1, angle=30 * beat)
    breast.add(smooth(((-0.1, -0.15), (0.4, 0.0), (0.3, 0.35), (0.0, 0.2))), second)
    eye = trunk.inner(-0.52, -0.18, 1)
    eye.add(ellipse(0, 0, 0.2, 0.27), WHITE, detail=True)
    eye.add(ellipse(-0.03, 0, 0.12, 0.17), INK, detail=True)
    figure.face = trunk.inner(-0.36, -0.18, 0.3, 0.42)
    figure.top = trunk.inner(-0.35, -0.84, 0.5, 0.65, angle=-14)


def turtle(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a turtle. Shape: shell height, neck, head, tail. The pose walks, and stretches the neck."""
    shell, neck, head_size, tail = subject.shape
    skin, step, stretch = subject.second, swing(pose), 0.5 + 0.5 * swing(pose, 0.75)
    figure.add(limb((0.6, 0.62), (lerp(0.85, 1.05, tail), 0.6 + 0.1 * step), 0.09, 0.03), skin)
    for x, phase in ((-0.3, 1), (0.52, -1)):
        figure.add(limb((x, 0.55), (x + 0.14 * phase * step, 0.88), 0.13, 0.14), shade(skin))
    throat = (-0.72 - 0.1 * stretch, lerp(0.15, -0.1, neck) - 0.22 * stretch)
    figure.add(limb((-0.4, 0.52), throat, 0.17, 0.14), skin)
    head = figure.inner(*throat, lerp(0.28, 0.34, head_size), angle=18 * swing(pose))
    head.add(ellipse(-0.1, -0.1, 1.05, 0.9), skin)
    add_eye(head, -0.4, -0.25, 0.2, skin)
    add_smile(head, -0.6, 0.3, 0.25, ink_on(skin))
    for x, phase in ((-0.42, -1), (0.4, 1)):
        figure.add(limb((x, 0.58), (x + 0.16 * phase * step, 0.92), 0.15, 0.16), skin)
    height = lerp(0.68, 0.92, shell)
    shoulder, crown = 0.62 - 0.62 * height, 0.62 - 1.05 * height
    dome = smooth(
        ((-0.68, 0.62), (-0.56, shoulder), (0.02, crown), (0.6, shoulder), (0.74, 0.62), (0.4, 0.7), (-0.35, 0.7))
    )
    figure.add(dome, subject.body, marked=figure.inner(0.03, 0.62 - 0.45 * height, 0.62, 0.5 * height))
    figure.add(limb((-0.64, 0.64), (0.72, 0.64), 0.08), shade(subject.body, 0.7))
    figure.top, figure.sides = head.inner(-0.1, -0.88, 0.85), head.inner(-0.1, 0, 0.95)
    figure.face = head.inner(-0.4, -0.25, 0.5)
    figure.neck = figure.inner((throat[0] - 0.5) / 2, (throat[1] + 0.4) / 2, 0.22, angle=-20)


def robot(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a robot. Shape: head width, antenna, arms, chest. The pose lifts the arms in turn and steps."""
    head_width, antenna, arm, chest = subject.shape
    body, second, lift = subject.body, subject.second, swing(pose)
    for side in (-1, 1):
        foot = (side * 0.24 + 0.1 * swing(pose, 2), 0.86 - 0.1 * max(0.0, side * lift))
        figure.add(limb((side * 0.22, 0.5), foot, 0.1), STEEL)
        figure.inner(foot[0] + side * 0.04, foot[1] + 0.04, 0.2, 0.1).add(rounded(4), second)
        hand = (side * lerp(0.82, 0.95, arm), 0.2 - 0.5 * side * lift)
        figure.add(limb((side * 0.5, 0.05), hand, 0.09), second)
        figure.add(ellipse(*hand, 0.15), second)
    trunk = figure.inner(0, 0.24, lerp(0.46, 0.54, chest), 0.4)
    figure.inner(0, -0.18, 0.14, 0.12).add(SQUARE, STEEL)
    trunk.add(rounded(6), body, marked=trunk)
    head = figure.inner(0, -0.5, 1, angle=12 * swing(pose, 1.5))
    head.add(limb((0, -0.25), (0, lerp(-0.42, -0.54, antenna)), 0.035), STEEL)
    head.add(ellipse(0, lerp(-0.45, -0.56, antenna), 0.09), LAMP)
    across = lerp(0.42, 0.52, head_width)
    for side in (-1, 1):
        head.inner(side * across, 0, 0.09, 0.13).add(rounded(4), second)
    head.inner(0, 0, across, 0.32).add(rounded(6), body)
    head.inner(0, -0.04, across * 0.8, 0.17).add(rounded(5), INK)
    for side in (-1, 1):
        head.add(ellipse(side * across * 0.42, -0.04, 0.095), LAMP, detail=True)
    head.inner(0, 0.21, 0.2, 0.05).add(SQUARE, ink_on(body), detail=True)
    figure.top, figure.sides = head.inner(0, -0.3, 0.36), head.inner(0, 0, across + 0.02, 0.4)
    figure.face, figure.neck = head.inner(0, -0.04, across * 0.46), figure.inner(0, -0.14, 0.36)


def bear(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a bear. Shape: ears, muzzle, arms, plumpness. The pose lifts the arms in turn and swings the legs."""
    ear, muzzle, arm, plump = subject.shape
    body, second, lift = subject.body, subject.second, swing(pose)
    wide = lerp(0.42, 0.54, plump)
    for side in (-1, 1):
        foot = (side * (0.46 + 0.12 * swing(pose, 1.5)), 0.84)
        figure.add(limb((side * 0.26, 0.62), foot, 0.18), shade(body, 0.88))
        figure.add(ellipse(*foot, 0.14), second)
    trunk = figure.inner(0, 0.42, wide, 0.46)
    trunk.add(CIRCLE, body, marked=trunk)
    for side in (-1, 1):
        hand = (side * (wide + lerp(0.14, 0.26, arm)), 0.38 - 0.38 * side * lift)
        figure.add(limb((side * (wide - 0.08), 0.2), hand, 0.13, 0.14), shade(body, 0.88))
        figure.add(ellipse(*hand, 0.09), second, detail=True)
    head = figure.inner(0.02 * lift, -0.36, 0.45, angle=14 * swing(pose, 1.5))
    for side in (-1, 1):
        head.add(ellipse(side * 0.76, -0.7, lerp(0.3, 0.42, ear)), body)
        head.add(ellipse(side * 0.76, -0.7, lerp(0.17, 0.25, ear)), second)
    head.add(ellipse(0, 0, 1.08, 0.95), body)
    head.add(ellipse(0, 0.38, lerp(0.38, 0.5, muzzle), 0.34), CREAM)
    head.add(ellipse(0, 0.22, 0.17, 0.12), INK, detail=True)
    add_smile(head, 0, 0.5, 0.18, INK)
    add_eyes(head, 0.44, -0.12, 0.13, body)
    figure.top, figure.sides = head.inner(0, -0.84, 0.72), head.inner(0, 0, 1.08)
    figure.neck = figure.inner(0, 0.07, 0.38)


def duck(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a bath duck on its way. Shape: beak, tail, head, plumpness. The pose beats the wing and rocks the duck."""
    beak, tail, head_size, plump = subject.shape
    body = subject.body
    rock = figure.inner(0, 0.3, 1, angle=10 * swing(pose))
    deep, tip = lerp(0.5, 0.6, plump), (lerp(0.86, 0.98, tail), lerp(-0.35, -0.5, tail))
    deck = ((-0.72, -0.02), (-0.3, -0.22), (0.3, -0.14), (0.62, -0.2), tip, (0.9, 0.1))
    keel = ((0.62, deep - 0.06), (0, deep + 0.06), (-0.58, deep - 0.1))
    rock.add(smooth((*deck, *keel), steps=5), body, marked=rock.inner(-0.2, 0.2, 0.62, 0.42))
    head = rock.inner(-0.38, -0.5, lerp(0.4, 0.46, head_size), angle=-12 * swing(pose, 1.5))
    head.add(CIRCLE, body)
    reach, gape = lerp(-1.35, -1.65, beak), 0.14 * (0.5 + 0.5 * swing(pose, 2))
    lower = ((-0.7, 0.15), (reach + 0.1, 0.3 + gape), (-0.62, 0.52 + gape))
    head.add(smooth(lower, steps=4), shade(subject.second))
    upper = ((-0.75, -0.12), (reach, 0.12), (reach + 0.05, 0.24), (-0.68, 0.32))
    head.add(smooth(upper, steps=4), subject.second)
    add_eye(head, -0.32, -0.2, 0.16, body)
    wing = ((-0.2, 0.02), (0.15, -0.12), (0.62, -0.06), (0.5, 0.14), (0.42, 0.26), (0.02, 0.28))
    rock.inner(0.26, -0.02, 0.9, angle=-28 * max(0.0, swing(pose, 1.5))).add(smooth(wing, steps=5), shade(body, 0.86))
    figure.top, figure.sides = head.inner(0, -0.85, 0.72), head.inner(0, 0, 1.0)
    figure.face, figure.neck = head.inner(-0.3, -0.2, 0.42), rock.inner(-0.36, -0.14, 0.36)


def monster(figure: Figure, subject: Subject, pose: float) -> None:
    """Draw a monster. Shape: horns, number of eyes, legs, height. The pose waves the arms, opens the mouth, leans."""
    horn, eyes, legs, height = subject.shape
    body, lift, tall = subject.body, swing(pose), lerp(0.66, 0.78, height)
    count = 2 + round(2 * legs)
    for index in range(count):
        x = lerp(-0.42, 0.42, index / (count - 1))
        figure.add(limb((x, 0.5), (x + 0.08 * swing(pose + index / count, 2), 0.88), 0.13, 0.14), shade(body))
    trunk = figure.inner(0, 0.08, 0.62, tall, angle=9 * swing(pose, 1.5))
    for side in (-1, 1):
        tip = (side * lerp(0.68, 0.9, horn), lerp(-1.2, -1.4, horn))
        trunk.add(smooth(((side * 0.25, -0.88), tip, (side * 0.78, -0.6)), steps=4), subject.second)
        hand = (side * 0.9, 0.2 - 0.55 * side * lift)
        figure.add(limb((side * 0.52, 0.15), hand, 0.11, 0.13), shade(body))
    trunk.add(rounded(2.5), body, marked=trunk.inner(0, 0.55, 0.95, 0.42))
    size, centres = ((0.36, (0.0,)), (0.26, (-0.36, 0.36)), (0.22, (-0.52, 0.0, 0.52)))[min(2, int(eyes * 3))]
    for x in centres:
        eye = trunk.inner(x, -0.42, size, size * 0.62 / tall)
        eye.add(CIRCLE, WHITE, detail=True)
        eye.add(ellipse(0.25 * lift, 0.05, 0.5), INK, detail=True)
    mouth = trunk.inner(0, 0.1, 0.42, 0.1 + 0.1 * abs(swing(pose, 1.5)))
    mouth.add(rounded(3), INK, detail=True)
    for x in (-0.45, 0.45):
        tooth = smooth(((x - 0.22, -0.95), (x + 0.22, -0.95), (x, 0.3)), steps=2)
        mouth.add(tooth, WHITE, detail=True, same=x > 0)
    figure.top, figure.sides = trunk.inner(0, -0.95, 0.45, 0.45), trunk.inner(0, -0.35, 0.98, 0.8)
    figure.face, figure.neck = trunk.inner(0, -0.42, 0.42), trunk.inner(0, 0.42, 0.85, 0.6)


def _pale(subject: Subject) -> RGB:
    """Return the body's colour, much lighter, for muzzles and tails; a light body keeps a tint, to be seen."""
    mix = 0.62 if max(subject.body) < 0.97 or min(subject.body) < 0.7 else -0.1
    red, green, blue = (channel + (1 - channel) * mix if mix > 0 else channel + mix for channel in subject.body)
    return (red, green, blue)


def _head(figure: Figure, pose: float, size: float) -> Place:
    """Return where a four-legged animal's head is, facing the eye, and set the anchors of what it wears."""
    x, y = (-0.26, -0.26) if pose >= SITTING else (-0.44, -0.26 + 0.06 * swing(pose, 2))
    head = figure.inner(x, y, size, angle=13 * swing(pose, 2.5))
    figure.top, figure.sides = head.inner(0, -0.82, 0.72), head.inner(0, -0.05, 1.05)
    figure.neck = figure.inner(*head.point(0.08, 0.98), 0.32, angle=-8)
    return head


def _trunk(figure: Figure, subject: Subject, pose: float, girth: float, tail: float, wag: float, curl: float) -> None:
    """Draw body, legs and tail of a four-legged animal, walking or sitting."""
    sits = pose >= SITTING
    root = figure.inner(0.5, 0.78, 1, angle=wag + 25) if sits else figure.inner(0.62, 0.2, 1, angle=wag)
    line = ((0, 0), (0.45 * tail, -0.12 * tail), (0.8 * tail, -0.5 * tail))
    tip = (0.8 * tail + 0.2 * tail * (1 - 2 * curl), -0.95 * tail)
    root.add(stroke((*line, tip), 0.1, 0.07), subject.body)
    draw_rest = _sitting if sits else _walking
    draw_rest(figure, subject, pose, girth)


def _walking(figure: Figure, subject: Subject, pose: float, girth: float) -> None:
    body, step = subject.body, swing(pose, 2.2)
    for x, phase in ((-0.12, 1), (0.62, -1)):
        figure.add(limb((x, 0.42), (x + 0.2 * phase * step, 0.88), 0.13, 0.1), shade(body))
    trunk = figure.inner(0.2, 0.26, 0.6, girth, angle=4 * step)
    trunk.add(rounded(2.6), body, marked=trunk.inner(0.12, -0.02, 0.9, 1))
    for x, phase in ((-0.28, -1), (0.52, 1)):
        foot = (x + 0.22 * phase * step, 0.9)
        figure.add(limb((x, 0.42), foot, 0.14, 0.11), body)
        figure.add(ellipse(foot[0] - 0.05, 0.92, 0.15, 0.09), subject.second)


def _sitting(figure: Figure, subject: Subject, pose: float, girth: float) -> None:
    body, lift = subject.body, max(0.0, swing(pose, 2.5))
    figure.add(limb((-0.16, 0.35), (-0.3, 0.9), 0.12, 0.1), shade(body))
    trunk = figure.inner(0.14, 0.38, 0.56, girth + 0.06, angle=62)
    trunk.add(rounded(2.6), body, marked=trunk.inner(0.05, -0.1, 0.95, 0.95))
    figure.add(ellipse(0.42, 0.72, 0.28, 0.25), body)
    figure.add(ellipse(0.24, 0.92, 0.2, 0.1), subject.second)
    paw = (-0.12 - 0.3 * lift, 0.9 - 0.3 * lift)
    figure.add(limb((-0.04, 0.4), paw, 0.13, 0.11), body)
    figure.add(ellipse(paw[0] - 0.04, paw[1] + 0.03, 0.14, 0.09), subject.second)
