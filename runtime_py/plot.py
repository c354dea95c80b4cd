"""Draw the coefficients of a merge: layer by layer, how m_c and m_s are spread over the columns (paper, Fig. 8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lorarar.errors import InputError
from lorarar.figures import mark_blocks, png_figure
from lorarar.layout import UNET, Layout

COLOURS = {"content": "#c1272d", "style": "#0071bc"}  # told apart by colour-blind readers too
SYMBOLS = {"content": "m_c", "style": "m_s"}


def plot_coefficients(layout: Layout, coefficients: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw the coefficients (layer name → (2, in)) of the learned layers, in UNet order, as a PNG.

    The left panel shows the median and the 5th to 95th percentile of each layer's columns, the right one all columns.
    Raises InputError when no learned layer is among them.
    """
    names = modules_to_plot(layout, coefficients)
    with png_figure(path, 12, 4.2) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
        layer = np.arange(len(names))
        for index, role in enumerate(("content", "style")):
            columns = [coefficients[UNET + name][index] for name in names]
            low, middle, high = np.array([np.percentile(values, (5, 50, 95)) for values in columns]).T
            left.fill_between(layer, low, high, step="mid", alpha=0.25, color=COLOURS[role], linewidth=0)
            left.step(layer, middle, where="mid", color=COLOURS[role], label=f"{SYMBOLS[role]} ({role})")
            right.hist(np.concatenate(columns), bins=80, orientation="horizontal", alpha=0.5, color=COLOURS[role])
        for axes in (left, right):
            axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        blocks = [".".join(name.split(".")[:2]) for name in names]
        mark_blocks(left, [block.replace("_blocks", "").replace("_block.attentions", "") for block in blocks])
        left.set(
            xlim=(-0.5, len(names) - 0.5), ylabel="coefficient", title=f"{layout.base}: {len(names)} learned layers"
        )
        left.legend(frameon=False, ncols=2, loc="upper left")
        right.set(xlabel="columns", title="all columns")
        right.ticklabel_format(axis="x", style="sci", scilimits=(0, 3))


def modules_to_plot(layout: Layout, coefficients: Mapping[str, np.ndarray]) -> list[str]:
    """Return the modules that have coefficients, in UNet order. Raises InputError when none has."""
    names = unet_order([m for group in layout.groups for m in group.modules if UNET + m in coefficients])
    if not names:
        raise InputError(
            "the two LoRAs share no learned layer, so there are no coefficients to draw; leave the plot out"
        )
    return names


def unet_order(modules: list[str]) -> list[str]:
    """Sort modules as a UNet runs them: down, mid, up; inside a block by number, and to_q before to_out."""
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}

    def key(module: str) -> tuple[int, list[tuple[int, str]], bool]:
        head, _, rest = module.partition(".")
        numbered = [(int(part), "") if part.isdigit() else (-1, part) for part in rest.split(".")[:-1]]
        return order.get(head, 3), numbered, module.endswith("to_out.0")

    return sorted(modules, key=key)
