"""Draw with paint, chalk and wash: media whose strokes and pigment show."""

from __future__ import annotations

import numpy as np

from miniature import styles_tools as tools
from miniature.styles_tools import Params, Stage


def watercolor(stage: Stage, p: Params) -> tools.Picture:
    """Draw transparent washes: pigment pools at borders, bleeds over them, granulates, leaves bare paper around."""
    stage = stage.wobbled(2.0 + 1.5 * p["bleed"])
    colour = tools.mix(stage.colour, tools.blur(stage.colour, 3.0 + 5 * p["bleed"]), 0.25 + 0.4 * p["bleed"])
    pooled = tools.blur(stage.edge, 2.2) * 4
    density = p["wash"] * (1 + p["pool"] * (0.9 * pooled - 0.25))
    density = density + p["blooms"] * 0.3 * stage.noise(26) + p["grain"] * 0.28 * stage.noise(3)
    density = density * (1 + 0.3 * (0.75 - stage.lit(30, 2.2)))
    frame = np.minimum.reduce([tools.ROWS, tools.COLS, tools.ROWS[::-1], tools.COLS[:, ::-1]])
    painted = tools.step(frame + 7 * stage.noise(14), 26 * p["margin"], 6.0)
    painted = np.maximum(painted, stage.subject)
    density = np.clip(density, 0.08, 2.5) * painted * (1 - 0.35 * p["fade"] * (1 - stage.subject))
    pigment = -np.log(np.clip(colour, 0.04, 0.98))
    picture = stage.paper * np.exp(-pigment * density[..., None])
    drawn = tools.lines(stage.edge, 2.4) * p["outline"] * (0.7 + 0.3 * stage.noise(6))
    return tools.mix(picture, stage.ink(), np.clip(drawn, 0, 1))


def oil(stage: Stage, p: Params) -> tools.Picture:
    """Draw thick strokes, lit so that their bristles and rims show; broad ones behind, finer ones on the subject."""
    colour = stage.shaded(0.5, 0.65, 40)
    broad = tools.strokes(stage.rng, 1.5 * p["length"], 1.6 * p["width"], p["angle"], p["swirl"])
    fine = tools.strokes(stage.rng, p["length"], p["width"], p["angle"] + 0.8, p["swirl"])
    # A fine stroke keeps to the part that its centre is on, so that markings are painted and not smeared.
    kept = fine.sampled(stage.buffers.part) == stage.buffers.part
    painted = np.where(kept[..., None], fine.sampled(colour), colour)
    inner = tools.blur(stage.subject, 1.5)  # 1 on the subject
    picture = tools.mix(broad.sampled(colour), painted, inner)
    bristle = np.where(inner > 0.5, fine.across * 7, broad.across * 9)
    body = np.where(inner > 0.5, fine.gap, broad.gap)
    thick = np.clip(body, 0, 0.5) + 0.12 * np.sin(bristle) + 0.1 * stage.noise(2)
    down, right = np.gradient(thick.astype(np.float32))
    relief = np.asarray(np.clip(1.1 * (down + right), -0.45, 0.45)) * p["impasto"] * (1 - 0.4 * inner)
    tint = np.where(inner > 0.5, fine.jitter(stage.rng), broad.jitter(stage.rng)) * 0.07 * p["variety"]
    drift = np.array([1.0, 0.5, -0.9], np.float32)
    picture = picture + relief[..., None] + tint[..., None] * (drift + 0.5)
    return tools.mix(picture, stage.ink(), 0.7 * inner * tools.lines(stage.edge, 2.6))


def pastel(stage: Stage, p: Params) -> tools.Picture:
    """Draw dusty sticks on toned paper: soft smudges under loose hatching that the paper's tooth breaks."""
    stage = stage.wobbled(1.5)
    soft = tools.mix(stage.colour, tools.blur(stage.colour, 4.0), 0.6 * p["smudge"])
    soft = tools.mix(soft, np.ones(3, np.float32), 0.12 + 0.25 * p["chalky"])
    tooth = stage.noise(2.5)
    rub = stage.noise(26, 3, p["angle"])
    cover = tools.step(0.45 * rub + 0.4 * tooth + 1.1 * p["cover"] + 0.4 * stage.subject, 0.0, 1.2)
    shade = 0.72 + 0.42 * stage.lit(34, 2.2)
    picture = tools.mix(stage.paper, soft * shade[..., None], 0.12 + 0.88 * cover)
    drawn = tools.lines(stage.edge, 3.0) * tools.step(tooth, -0.3, 1.0) * p["outline"]
    return tools.mix(picture, stage.ink(), drawn)


def crayon(stage: Stage, p: Params) -> tools.Picture:
    """Draw wax scribbled to and fro over paper, with a heavier line around every part."""
    stage = stage.wobbled(1.0 + 2.2 * p["childish"], 20)
    bend = 5 * stage.noise(22) + stage.subject * 9
    turn = p["angle"] + 0.7 * (stage.buffers.part % 3)
    scribble = tools.hatch(p["spacing"], turn.astype(np.float32), bend) + 0.35 * stage.noise(14, 2, p["angle"])
    wax = tools.step(scribble + 0.28 * stage.noise(2), 0.75 - 0.7 * p["pressure"], 0.35)
    picture = tools.mix(stage.paper, stage.colour, 0.1 + 0.9 * wax)
    around = tools.lines(stage.edge, 4.0) * tools.step(stage.noise(2), -0.9, 1.2)
    return tools.mix(picture, stage.ink() * 0.6 + stage.colour * 0.3, around * p["outline"])


def pointillism(stage: Stage, p: Params) -> tools.Picture:
    """Draw separate dots of pure colour, some of a complementary or neighbouring hue."""
    colour = stage.shaded(0.6, 0.5, 36)
    dots = tools.tiles(stage.rng, p["size"], 0.75)
    fill = dots.sampled(colour)
    mean = fill.mean(-1, keepdims=True)
    vivid = mean + (fill - mean) * (1.2 + 0.6 * p["vivid"])
    jitter = dots.jitter(stage.rng) * p["variety"]
    vivid = vivid + np.stack([0.14 * jitter, 0.02 * jitter, -0.14 * jitter], -1)
    vivid = np.where((jitter > 1.5 * p["variety"])[..., None], 1 - 0.6 * vivid, vivid)
    round_dot = tools.step(-np.hypot(dots.along, dots.across), -p["fill"], 0.25)
    return tools.mix(stage.paper, vivid, round_dot)


def chalk(stage: Stage, p: Params) -> tools.Picture:
    """Draw chalk on a wiped board: pale lines, and areas rubbed in with the stick's side."""
    stage = stage.wobbled(1.5)
    dust = 0.06 * stage.noise(30) + 0.025 * stage.noise(2) + 0.05 * stage.noise(40, 6, p["angle"])
    board = stage.paper + dust[..., None]
    grit = stage.noise(2.2)
    side = tools.hatch(p["spacing"], p["angle"], 2.5 * stage.noise(14))
    level = stage.tone * (0.45 + 0.55 * stage.subject)
    rubbed = tools.step(side * 0.6 + 0.2 * grit + (0.35 + 0.7 * level) * p["fill"], 0.72, 0.5) * (0.2 + 0.75 * level)
    colour = tools.mix(stage.colour, np.ones(3, np.float32), 0.35)
    picture = tools.mix(board, colour, rubbed)
    drawn = tools.lines(stage.edge, 3.4) * tools.step(grit, -0.7, 1.2)
    return tools.mix(picture, stage.ink(-1), 0.95 * drawn)


def ink_wash(stage: Stage, p: Params) -> tools.Picture:
    """Draw diluted ink on absorbent paper: tones run into one another, a loaded brush draws the borders."""
    stage = stage.wobbled(2.2, 18)
    wet = tools.mix(stage.tone, tools.blur(stage.tone, 4 + 5 * p["wet"]), 0.35 + 0.3 * p["wet"])
    depth = (1 - wet) * (0.35 + 0.65 * stage.subject) + 0.12 * stage.noise(24) * p["wet"] + 0.03 * stage.noise(3)
    depth = depth * 0.8 + 0.35 * (0.75 - stage.lit(34, 2.2))
    streak = stage.noise(30, 3, p["angle"])
    dry = tools.step(streak, 1.3 - p["dry"], 0.6) * 0.5
    depth = np.clip(depth * (1 - dry), 0, 1)
    ink = stage.palette.mapped(1 - depth)
    picture = tools.mix(stage.paper, ink * stage.paper, np.clip(depth * 1.5, 0, 1))
    brush = tools.lines(stage.edge, np.clip(p["brush"] * (1 + 0.45 * stage.noise(20)), 0.8, 9))
    return tools.mix(picture, stage.ink(), 0.85 * brush)
