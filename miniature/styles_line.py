"""Draw and print by line, hatch or screen."""

from __future__ import annotations

import numpy as np

from miniature import styles_tools as tools
from miniature.buffers import BACKGROUND
from miniature.styles_tools import Params, Stage


def line_drawing(stage: Stage, p: Params) -> tools.Picture:
    """Draw ink lines alone on paper; dark parts and the shaded side are hatched."""
    stage = stage.wobbled(0.8 + 1.6 * p["loose"])
    width = np.clip(p["width"] * (1 + 0.3 * stage.noise(18)), 1.2, 8)
    drawn = tools.lines(stage.edge, width)
    if p["double"] > 0.5:
        again = stage.wobbled(2.4, 26)
        drawn = np.maximum(drawn, 0.8 * tools.lines(again.edge, p["width"] * 0.7))
    dark = (1 - stage.tone) * (0.25 + 0.75 * stage.subject) + 0.5 * (0.7 - stage.lit(40, 2.2))
    for turn, level in ((0.0, 0.42), (1.2, 0.66)):
        ruled = tools.step(tools.hatch(p["spacing"], p["angle"] + turn, 1.2 * stage.noise(16)), 0.62, 0.35)
        drawn = np.maximum(drawn, ruled * tools.step(dark, level, 0.15) * p["hatching"])
    paper = stage.paper * (1 + 0.02 * stage.noise(3))[..., None]
    faint = tools.mix(paper, stage.colour * stage.paper, 0.25 * p["tint"])
    return tools.mix(faint, stage.ink(), drawn)


def cartoon_line(stage: Stage, p: Params) -> tools.Picture:
    """Draw flat colours in two tones inside thick ink lines, over a simple backdrop."""
    stage = stage.wobbled(0.8, 24)
    dim = tools.step(-stage.lit(40, 2.2), -0.52 - 0.15 * p["shadow"], 0.06) * stage.subject
    colour = stage.colour * (1 - 0.38 * dim)[..., None]
    behind = stage.buffers.part == BACKGROUND
    plain = tools.mix(stage.colour, stage.paper, 0.55)
    angles = np.arctan2(tools.ROWS - 100, tools.COLS - 96)
    rays = tools.step(np.cos(angles * round(p["rays"])), 0, 0.2)
    plain = tools.mix(plain, tools.mix(plain, stage.ink(1), 0.35), rays if p["rays"] > 4 else rays * 0)
    picture = np.where(behind[..., None], plain, colour)
    inner = tools.lines(stage.edge, p["width"] * 0.75)
    outer = tools.lines(tools.borders(stage.buffers.subject.astype(np.int64)), p["width"] * 1.5)
    return tools.mix(picture, stage.ink() * 0.6, np.maximum(inner, outer))


def woodcut(stage: Stage, p: Params) -> tools.Picture:
    """Draw one block of ink: light areas are carved away in tapering grooves that follow the form."""
    stage = stage.wobbled(1.0)
    lit = stage.lit(44, 2.3)
    level = 0.75 * stage.tone + 0.55 * lit - 0.28 + p["light"] * 0.25 + 0.22 * (1 - stage.subject)
    # Grooves turn from part to part, so that a marking as light as its surroundings still shows.
    turn = (p["angle"] + 0.8 * (stage.buffers.part % 4)).astype(np.float32)
    bend = stage.buffers.height.astype(np.float32) * 12 + 2 * stage.noise(30)
    across = tools.ROWS * np.cos(turn) - tools.COLS * np.sin(turn) + bend
    grooves = 0.5 + 0.5 * np.cos(across * np.float32(2 * np.pi / p["spacing"]))
    carved = tools.step(grooves * 0.75 + 0.08 * stage.noise(16, 2, p["angle"]), 0.95 - level, 0.16)
    carved = carved * (1 - 0.9 * tools.lines(stage.edge, p["outline"]))
    rim = tools.borders(stage.buffers.subject.astype(np.int64))
    carved = np.maximum(carved, 0.9 * (tools.lines(rim, p["outline"] + 6) - tools.lines(rim, p["outline"] + 1)))
    wood = 1 - 0.1 * np.clip(stage.noise(40, 2, 0.0), 0, 2)
    printed = tools.mix(stage.ink() * 0.8, stage.colour, 0.3 * p["colours"])
    sheet = tools.mix(stage.paper, tools.mix(stage.paper, stage.colour, 0.6), p["colours"])
    return tools.mix(sheet, printed, (1 - np.clip(carved, 0, 1)) * wood)


def blueprint(stage: Stage, p: Params) -> tools.Picture:
    """Draw white construction lines on blue paper over a ruled grid; tone by thin hatching."""
    stage = stage.wobbled(0.5)
    sheet = stage.paper * (1 + 0.05 * stage.noise(30) + 0.03 * stage.noise(3))[..., None]
    ruled = np.maximum(tools.hatch(p["grid"], 0.0), tools.hatch(p["grid"], np.pi / 2))
    drawn = 0.3 * tools.step(ruled, 0.93, 0.08)
    tinted = tools.mix(sheet, stage.colour, 0.25 + 0.2 * stage.subject)
    sheet = tools.mix(sheet, tinted, p["tint"])
    fill = tools.step(tools.hatch(p["spacing"], p["angle"]), 0.7, 0.4) * stage.tone * (0.15 + 0.5 * stage.subject)
    drawn = np.maximum(drawn, fill)
    drawn = np.maximum(drawn, tools.lines(stage.edge, p["width"]))
    return tools.mix(sheet, stage.ink(-1), np.clip(drawn, 0, 1))


def halftone(stage: Stage, p: Params) -> tools.Picture:
    """Draw a comic's printing: flat colour, a screen of dots that grow with the shade, and black contours."""
    lit = stage.lit(40, 2.2)
    dark = np.clip(1.05 - 0.75 * lit - 0.35 * stage.tone, 0, 1)
    cells = tools.hatch(p["pitch"], p["angle"]) + tools.hatch(p["pitch"], p["angle"] + np.pi / 2)
    dots = tools.step(cells / 2, 1 - dark * p["weight"], 0.12)
    levels = np.round(np.clip(stage.colour * 1.15, 0, 1) * 3.4) / 3.4
    flat = tools.mix(stage.paper * levels, stage.paper, 0.12 * (1 - stage.subject))
    picture = tools.mix(flat, tools.mix(stage.ink(), flat * 0.35, 0.35), 0.85 * dots)
    return tools.mix(picture, stage.ink() * 0.35, tools.lines(stage.edge, p["width"]))


def neon(stage: Stage, p: Params) -> tools.Picture:
    """Draw light tubes along every border, their bloom, and a dark wall that catches it."""
    stage = stage.wobbled(0.7)
    tube = tools.lines(stage.edge, p["width"])
    peak = stage.colour.max(-1, keepdims=True)
    hue = (stage.colour / np.maximum(peak, 0.05)) ** 2.5
    hue = tools.mix(hue, stage.ink(1) / max(float(stage.ink(1).max()), 0.1), 0.85 * stage.palette.strength)
    emitted = tube[..., None] * tools.blur(hue, 1.5)
    near, far = tools.blur(emitted, 3.5), tools.blur(emitted[::4, ::4], 4.0).repeat(4, 0).repeat(4, 1)
    wall = stage.paper * (1 + 0.25 * stage.noise(20) * p["wall"])[..., None]
    inside = stage.colour * (p["fill"] * (0.12 + 0.35 * stage.subject))[..., None]
    inside = inside * stage.lit(30, 1.6)[..., None]
    glow = near * 0.9 * p["bloom"] + tools.blur(far, 3.0) * 1.7 * p["bloom"]
    core = tools.step(tube, 0.85, 0.4)[..., None] * 0.4
    return wall + inside + glow + emitted * 0.9 + core
