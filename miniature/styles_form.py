"""Draw solid things: what a material and a lamp make of the relief, and the smoke that has none."""

from __future__ import annotations

import numpy as np

from miniature import styles_tools as tools
from miniature.styles_palette import hsv
from miniature.styles_tools import Params, Stage


def photo(stage: Stage) -> tools.Picture:
    """Draw the world as it is: soft daylight on the relief and a faint shadow on the ground."""
    lit = 0.66 + 0.42 * stage.lit(30, 2.2)
    shadow = tools.cast(stage.buffers.subject, 7, 6, 5.0) * (1 - stage.subject)
    return stage.buffers.albedo * (lit * (1 - 0.3 * shadow))[..., None]


def _studio(stage: Stage, lift: float) -> tools.Picture:
    """Draw a seamless backdrop between the paper and the second ink, with the scene's own colour in it."""
    fall = tools.step(tools.ROWS, 96.0, 170.0) * 0.9
    spot = np.exp(-(((tools.ROWS - 70) / 80) ** 2) - ((tools.COLS - 96) / 90) ** 2)
    sweep = tools.mix(stage.paper, stage.ink(1), fall * 0.7) * (0.72 + 0.38 * spot)[..., None]
    return tools.mix(sweep, tools.blur(stage.colour, 2.0), lift)


def _solid(stage: Stage, material: np.ndarray, behind: np.ndarray, dark: float) -> tools.Picture:
    """Draw the material where the subject is, its shadow on what is behind."""
    shadow = tools.cast(stage.buffers.subject, 9, 8, 6.0)
    contact = tools.blur(stage.subject, 4.0) * 0.5
    behind = behind * (1 - dark * np.maximum(shadow, contact))[..., None]
    return tools.mix(behind, material, tools.blur(stage.subject, 0.8))


def _grooves(stage: Stage, width: float) -> tools.Plane:
    """Draw engraved lines on the borders of parts inside the subject."""
    return tools.lines(stage.edge, width) * stage.subject


def rendering(stage: Stage, p: Params) -> tools.Picture:
    """Draw a rendered model: smooth clay or glossy plastic under a lamp, in a studio."""
    normal = tools.normals(stage.buffers.height, p["depth"], 2.5)
    lit = np.clip(tools.light(normal, p["angle"], 0.75), 0, 1)
    rim = np.clip(1 - normal[2], 0, 1) ** 2
    shine = tools.gloss(normal, p["angle"], p["power"]) * p["gloss"]
    occlusion = 1 - 0.45 * np.clip(tools.blur(stage.edge, 2.6) * 2.6, 0, 1)
    albedo = tools.mix(stage.colour, stage.ink(-1), 0.2 * p["clay"])
    material = albedo * ((0.95 * lit + 0.28) * occlusion)[..., None]
    material = material + shine[..., None] + p["rim"] * rim[..., None] * stage.ink(-1) * 0.55
    return _solid(stage, material, _studio(stage, p["scene"]), 0.55)


def gold(stage: Stage, p: Params) -> tools.Picture:
    """Draw molten metal: a mirror-like ramp over the relief, and drips that run down."""
    runs = np.clip(stage.noise(p["drip"] * 3, p["drip"], np.pi / 2), -0.4, 2.2)
    stage = stage.warped(-p["melt"] * np.maximum(runs, 0) ** 1.3 * 0.7, 1.2 * stage.noise(16))
    normal = tools.normals(stage.buffers.height + 0.012 * runs, p["depth"], 2.2)
    sweep = 0.5 + 0.5 * tools.light(normal, 2.2, 0.3)
    bands = 0.5 + 0.5 * np.sin(sweep * p["bands"] + 1.5 * normal[1] + 0.25 * stage.noise(24))
    value = np.clip(0.55 * bands + 0.45 * (stage.tone - 0.5) + 0.32, 0, 1)
    metal = stage.palette.mapped(value)
    metal = tools.mix(metal, stage.colour * metal * 1.6, 0.5 * (1 - stage.palette.strength))
    metal = metal + (tools.gloss(normal, 2.2, 30) * 0.9)[..., None]
    metal = metal * (1 - 0.6 * _grooves(stage, 2.6))[..., None]
    pool = stage.palette.mapped(np.clip(0.28 + 0.2 * np.sin(2.2 * stage.noise(30, 9) + 3), 0, 1)) * 0.75
    behind = tools.mix(_studio(stage, 0.12), pool, tools.step(tools.ROWS + 9 * runs, 150.0 - 40 * p["pool"], 4.0))
    return _solid(stage, metal, behind, 0.5)


def wood(stage: Stage, p: Params) -> tools.Picture:
    """Draw carved wood: rings and fibres through the form, facets of the chisel, engraved markings."""
    relief = stage.buffers.height.astype(np.float32)
    depth = relief * 30 + 2.0 * stage.noise(30)
    along = tools.COLS * np.cos(p["angle"]) - tools.ROWS * np.sin(p["angle"])
    across = tools.ROWS * np.cos(p["angle"]) + tools.COLS * np.sin(p["angle"]) + depth + 4 * np.sin(along / 40)
    rings = 0.5 + 0.5 * np.sin(across * 2 * np.pi / p["rings"])
    fibre = stage.noise(30, 2, p["angle"])
    stain = stage.tone * 0.75 + 0.18
    value = np.clip(stain + 0.26 * p["grain"] * (rings**2 - 0.4) + 0.07 * fibre, 0, 1)
    chips = 0.035 * p["chisel"] * np.abs(stage.noise(9))
    normal = tools.normals(relief + chips, 44.0, 1.2)
    lit = 0.45 + 0.8 * np.clip(tools.light(normal, 2.3, 0.8), 0, 1)
    timber = tools.mix(stage.palette.mapped(value), stage.colour, 0.35 * (1 - stage.palette.strength))
    timber = timber * (lit * (1 - 0.6 * _grooves(stage, 2.6)))[..., None]
    planks = stage.palette.mapped(np.clip(0.5 + 0.1 * stage.noise(60, 2, 0.0), 0, 1)) * 0.75
    seams = tools.step(tools.hatch(p["plank"], 0.0), 0.97, 0.04)
    planks = tools.mix(planks, stage.ink() * 0.5, seams)
    behind = tools.mix(_studio(stage, 0.1), planks, p["bench"])
    return _solid(stage, timber, behind, 0.5)


def statue(stage: Stage, p: Params) -> tools.Picture:
    """Draw polished black stone or bronze: nearly no colour, sharp highlights, markings cut in and less polished."""
    normal = tools.normals(stage.buffers.height, p["depth"], 1.8)
    lit = np.clip(tools.light(normal, p["angle"], 0.6), 0, 1)
    shine = tools.gloss(normal, p["angle"], p["power"])
    back = np.clip(1 - normal[2], 0, 1) ** 1.5 * np.clip(normal[0] * np.cos(p["angle"]) * -1 + 0.3, 0, 1)
    polish = 0.35 + 1.3 * stage.tone
    veins = tools.step(-np.abs(stage.noise(20)), -0.07, 0.08) * p["veins"] * 0.35
    stone = stage.palette.mapped(np.clip(0.03 + 0.2 * lit * polish + 0.07 * stage.tone + veins, 0, 1))
    stone = stone + (0.85 * shine * np.clip(polish, 0, 1) + 0.55 * back)[..., None] * stage.ink(-1)
    edge = _grooves(stage, 2.4)
    stone = tools.mix(stone, stage.palette.mapped(np.full_like(edge, 0.45)), 0.8 * edge)
    return _solid(stage, stone, _studio(stage, p["scene"]), 0.6)


def smoke(stage: Stage, p: Params) -> tools.Picture:
    """Draw flowing ribbons of rainbow smoke that gather along the subject's forms."""
    flow, cross = stage.noise(34), stage.noise(26)
    stage = stage.warped(p["curl"] * cross, p["curl"] * flow)
    tone = tools.blur(stage.tone, 1.0)
    phase = tools.ROWS * np.sin(p["angle"]) + tools.COLS * np.cos(p["angle"]) + 22 * flow
    hue = p["hue"] + p["span"] * (phase / 150 + 0.35 * tone)
    wheel = np.array([hsv(value / 64, 0.9, 1.0) for value in range(64)], np.float32)
    colour = wheel[(hue * 64).astype(np.int64) % 64]
    colour = tools.mix(colour, stage.colour, 0.45 * (1 - stage.palette.strength))
    ribbon = 0.5 + 0.5 * np.cos(2 * np.pi * (phase / p["ribbon"] + 1.4 * cross * 0.3 + 2.2 * stage.buffers.height))
    wisps = 0.35 + 0.65 * ribbon**1.5
    body = stage.subject * (0.45 + 0.55 * tone) * (0.45 + 0.55 * wisps)
    around = (1 - stage.subject) * 0.3 * wisps * np.clip(0.5 + flow, 0, 1.4) * p["spread"]
    rim = tools.lines(stage.edge, 2.6) * (0.35 + 0.65 * tools.blur(stage.subject, 2.0))
    density = np.clip(tools.blur(body + around, 1.0), 0, 1)
    dark = float(np.mean(stage.paper)) < 0.5
    picture = tools.mix(stage.paper * 0.25 if dark else 0.75 + 0.25 * stage.paper, colour, density)
    return tools.mix(picture, colour * 0.25 + 0.75 if dark else colour * 0.35, 0.8 * rim)
