"""Put pictures together from pieces: tiles, glass, pixels, stitches, facets and cut paper."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from miniature import styles_tools as tools
from miniature.styles_tools import Params, Stage


def _parted(stage: Stage, cells: tools.Cells, colour: np.ndarray, faithful: float) -> np.ndarray:
    """Give each cell the colour at its centre; where another part lies in the cell, its colour shows through."""
    filled = cells.sampled(colour)
    other = cells.sampled(stage.buffers.part) != stage.buffers.part
    return tools.mix(filled, colour, other * np.float32(faithful))


def mosaic(stage: Stage, p: Params) -> tools.Picture:
    """Draw stone tiles in grout, each of one colour, slightly tilted to the light."""
    shade = 0.78 + 0.45 * stage.lit(36, 2.2)
    cells = tools.tiles(stage.rng, p["size"], p["disorder"])
    tile = _parted(stage, cells, stage.colour * shade[..., None], 0.65)
    bright = 1 + 0.13 * p["variety"] * cells.jitter(stage.rng)
    bright = bright + 0.16 * p["tilt"] * (cells.jitter(stage.rng) * cells.along - cells.across - cells.along)
    grout = stage.paper * (1 + 0.05 * stage.noise(2))[..., None]
    inside = tools.step(cells.gap, p["grout"], 0.16)
    seam = tools.lines(stage.edge, 1.6) * 0.5
    return tools.mix(grout, tile * bright[..., None], inside * (1 - seam))


def stained_glass(stage: Stage, p: Params) -> tools.Picture:
    """Draw coloured panes lit from behind, in lead lines along the shapes and between the panes."""
    cells = tools.tiles(stage.rng, p["size"], 0.9)
    glow = 1.0 - 0.35 * np.hypot(tools.ROWS - 96, tools.COLS - 96) / 96
    pane = _parted(stage, cells, stage.colour, 1.0)
    mean = pane.mean(-1, keepdims=True)
    pane = np.clip(mean + (pane - mean) * (1.2 + 0.5 * p["vivid"]), 0.03, 1)
    streaks = 1 + 0.12 * stage.noise(20, 4, p["angle"]) + 0.16 * cells.jitter(stage.rng)
    pane = pane * (0.45 + 0.75 * glow * streaks)[..., None]
    seams = np.maximum(1 - tools.step(cells.gap, p["lead"] / p["size"], 0.1), 0)
    lead = np.maximum(tools.lines(stage.edge, p["lead"] + 1.5), seams * 0.95)
    metal = stage.ink() * 0.35 * (1 + 0.3 * stage.noise(4))[..., None]
    return tools.mix(pane, metal, lead)


def pixel_art(stage: Stage, p: Params) -> tools.Picture:
    """Draw big square pixels of few colours, dithered shade, a dark outline one pixel wide."""
    cells = tools.grid(p["size"])
    shade = 0.62 + 0.5 * stage.lit(40, 2.2)
    checker = (cells.label // (len(np.unique(cells.cols))) + cells.label) % 2
    levels = round(p["levels"])
    shaded = np.round((shade + p["dither"] * 0.16 * (checker - 0.5)) * levels) / levels
    colour = cells.sampled(stage.colour)
    shaded = cells.sampled(shaded)
    part = cells.sampled(stage.buffers.part)
    colour = np.round(colour * levels) / levels
    picture = colour * (0.25 + 0.8 * shaded)[..., None]
    subject = part > 1
    rim = subject & ~ndimage.binary_erosion(subject, np.ones((3, 3)), iterations=round(p["size"]) // 2)
    picture = tools.mix(picture, stage.ink() * 0.7, rim.astype(np.float32) * p["outline"])
    # Pixels on a border between parts are darker, or few colours would swallow a marking.
    inner = tools.borders(part) * stage.subject
    picture = tools.mix(picture, picture * 0.75, cells.averaged(inner) > 0.08)
    return picture * (1 - 0.16 * p["gaps"] * (cells.gap < 0.2))[..., None]


def embroidery(stage: Stage, p: Params) -> tools.Picture:
    """Draw cross stitches of thread on coarse cloth; the cloth stays bare in part of the background."""
    cells = tools.grid(p["size"])
    thread = cells.sampled(stage.colour * (0.78 + 0.3 * stage.lit(30, 2.2))[..., None])
    diagonal = np.minimum(np.abs(cells.along - cells.across), np.abs(cells.along + cells.across))
    cover = tools.step(-diagonal, -p["thick"], 0.25)
    over = np.abs(cells.along - cells.across) < p["thick"]
    sheen = 0.82 + 0.3 * over + 0.18 * (1 - diagonal) + 0.07 * cells.jitter(stage.rng)
    bare = tools.step(cells.sampled(stage.noise(30)), 1.6 - 2.2 * p["bare"], 0.1) * (1 - cells.sampled(stage.subject))
    weave = 0.88 + 0.1 * tools.hatch(p["size"] / 2, 0.0) + 0.1 * tools.hatch(p["size"] / 2, np.pi / 2)
    cloth = stage.paper * weave[..., None]
    picture = tools.mix(cloth, thread * sheen[..., None], cover * (1 - bare))
    back = tools.lines(stage.edge, 2.6) * tools.step(tools.hatch(9, 0.8), 0.3, 0.3) * p["outline"]
    return tools.mix(picture, stage.ink() * 0.8, back)


def low_poly(stage: Stage, p: Params) -> tools.Picture:
    """Draw flat facets, each one colour, lit by its own tilt."""
    cells = tools.tiles(stage.rng, p["size"], 1.0)
    # A Voronoi shard split along its own diagonal reads as two triangles of a mesh.
    turn = cells.jitter(stage.rng) * 2
    half = (cells.along * np.cos(turn) + cells.across * np.sin(turn) > 0).astype(np.float32) - 0.5
    normal = tools.normals(stage.buffers.height, 46.0, 3.0)
    facing = np.stack([cells.averaged(plane) for plane in normal])
    lit = tools.light(facing, p["angle"], 0.8)
    colour = _parted(stage, cells, stage.colour, 0.8)
    bright = 0.5 + 0.68 * lit + 0.15 * half * p["contrast"] + 0.1 * p["contrast"] * cells.jitter(stage.rng)
    picture = colour * bright[..., None]
    ridge = 1 - tools.step(cells.gap, 0.06, 0.1)
    return tools.mix(picture, stage.ink(-1), 0.4 * p["wire"] * ridge)


def paper_cutout(stage: Stage, p: Params) -> tools.Picture:
    """Draw layers of coloured card, each throwing a shadow on the one below; edges cut with scissors."""
    stage = stage.wobbled(0.9 + p["rough"], 9)
    part = stage.buffers.part
    colour = stage.colour * (1 + 0.05 * stage.noise(2) + 0.03 * stage.noise(10))[..., None]
    down, right = 2.0 + 3 * p["lift"], (2.0 + 3 * p["lift"]) * np.cos(p["angle"])
    # A part with a higher number throws its shadow on those below: parts are drawn in order, later ones on top.
    above = (np.roll(part, (round(down), round(right)), (0, 1)) > part).astype(np.float32)
    deep = tools.cast(part > 1, down * 1.9, right * 1.9, 2.5) * (1 - stage.subject)
    colour = colour * (1 - 0.5 * np.maximum(tools.blur(above, 1.1), deep))[..., None]
    bands = tools.step(tools.ROWS + 10 * np.sin(tools.COLS / p["waves"] + p["angle"]), 75.0, 2.0)
    shift = tools.mix(stage.paper, stage.ink(1), 0.4 * bands)
    colour = np.where((part == 0)[..., None], tools.mix(colour, shift, 0.55), colour)
    rim = tools.lines(stage.edge, 1.6)
    return tools.mix(colour, np.ones(3, np.float32), 0.55 * rim * p["rim"])


def flat_cartoon(stage: Stage, p: Params) -> tools.Picture:
    """Draw flat shapes without contours, a hard shadow on one side, and a backdrop of one colour with a disc."""
    stage = stage.wobbled(0.6, 30)
    lit = tools.light(tools.normals(stage.buffers.height, 40.0, 5.0), p["angle"])
    dim = tools.step(-lit, -0.62, 0.04) * stage.subject
    colour = np.where(stage.subject[..., None] > 0, stage.colour, tools.mix(stage.colour, stage.paper, 0.65))
    distance = np.hypot(tools.ROWS - 92, tools.COLS - 96)
    disc = tools.step(-distance, -p["disc"], 1.5) * (stage.buffers.part == 0)
    colour = tools.mix(colour, stage.ink(1), 0.75 * disc)
    ring = tools.step(-np.abs(distance - p["disc"] - 12), -3.0, 1.5) * (stage.buffers.part == 0) * p["ring"]
    colour = tools.mix(colour, stage.ink(-1), ring)
    shadow = tools.mix(colour * 0.62, stage.ink() * 0.6 + colour * 0.3, 0.5)
    picture = tools.mix(colour, shadow, dim * p["shadow"])
    # Neighbouring parts keep a thin seam, as separate shapes of a vector drawing do.
    return tools.mix(picture, picture * 0.55, tools.lines(stage.edge, 1.5) * 0.8)


def sticker(stage: Stage, p: Params) -> tools.Picture:
    """Draw a die-cut sticker: a white border, a shadow under it, a shine over it, on a patterned table."""
    solid = stage.buffers.subject
    border = tools.blur(stage.subject, p["border"] / 2) > 0.06
    table = tools.mix(stage.colour, stage.paper, 0.75)
    pattern = tools.hatch(p["pitch"], p["angle"])
    if p["dots"] > 0.5:
        pattern = (pattern + tools.hatch(p["pitch"], p["angle"] + np.pi / 2)) / 2
    table = tools.mix(table, stage.ink(1), 0.5 * tools.step(pattern, 0.72, 0.15))
    table = table * (1 - 0.55 * tools.cast(border, 5, 4, 3.0))[..., None]
    sheet = np.clip(stage.colour * 1.06, 0, 1)
    dim = tools.step(-stage.lit(36, 2.2), -0.6, 0.1) * 0.28
    shine = tools.step(tools.hatch(150, 0.8, 20), 0.94, 0.03) * 0.4
    sheet = tools.mix(sheet * (1 - dim)[..., None], np.ones(3, np.float32), shine * p["shine"])
    inner = np.maximum(tools.lines(stage.edge, 2.2), 0) * tools.blur(stage.subject, 1.0)
    sheet = tools.mix(sheet, stage.ink() * 0.7, 0.85 * inner)
    white = np.full(3, 0.98, np.float32) * (1 - 0.06 * stage.noise(20))[..., None]
    picture = tools.mix(table, white, tools.blur(border.astype(np.float32), 0.7))
    return tools.mix(picture, sheet, tools.blur(solid.astype(np.float32), 0.7))
