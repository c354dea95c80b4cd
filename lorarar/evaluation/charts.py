"""Draw how far one method is ahead of the others, from the tables of one evaluation or of several."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.evaluation.mars2 import Interval
from lorarar.evaluation.tables import DIFFERENCES, MINUS, Table
from lorarar.figures import png_figure

_STATISTIC = "average case"
_ROW, _MARGIN, _WIDTH = 0.24, 1.2, 6.4  # inches: a row, what is above and below a panel's rows, a panel
_BEHIND, _UNCLEAR, _AHEAD = "C3", "0.55", "C0"
_LEGEND = "share of images with the right subject and style, 95 % intervals; blue: clearly more, red: clearly less"


@dataclass(frozen=True)
class Panel:
    """Differences of one evaluation, each with its label `A − B`."""

    title: str
    rows: Sequence[tuple[str, Interval]]


def panel_of(table: Table, title: str) -> Panel:
    """Return the table of differences of an evaluation as a panel, by the average case."""
    place = table.columns.index(_STATISTIC)
    cells = [(str(row[0]), row[place]) for row in table.rows]
    return Panel(title, [(label, cell) for label, cell in cells if isinstance(cell, Interval)])


def read_panel(folder: Path, title: str) -> Panel:
    """Read the panel from the differences.csv that `lorarar evaluate` wrote into a folder.

    Raises InputError when there is none, or one that it did not write.
    """
    path = folder / f"{DIFFERENCES}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["difference"], _interval(row)) for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise InputError(f"{path} is not there; give a folder of tables that  lorarar evaluate  wrote") from None
    except (KeyError, TypeError, ValueError, csv.Error):
        raise InputError(f"{path} is no table of differences of  lorarar evaluate; make it anew by  --from") from None
    if not rows:
        raise InputError(f"{path} compares nothing; LoRA.rar has to be among the methods, drawn as another one is")
    return Panel(title, rows)


def draw_differences(panels: Sequence[Panel], path: Path) -> None:
    """Draw each difference as a point with its interval, a panel an evaluation, two beside each other.

    One whose interval leaves out 0 has a colour: blue where the first of the two methods is ahead, red where behind.
    """
    across = min(2, len(panels))
    rows = [max(len(panel.rows) for panel in panels[at : at + across]) for at in range(0, len(panels), across)]
    heights = [_MARGIN + _ROW * count for count in rows]
    bounds = [end for panel in panels for _, one in panel.rows for end in _ends(one)]
    with png_figure(path, _WIDTH * across, sum(heights)) as figure:
        figure.supxlabel(_LEGEND, fontsize="small")
        grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
        for at, panel in enumerate(panels):
            axes = figure.add_subplot(grid[at // across, at % across])
            axes.set_xlim(min(0, *bounds) - 0.02, max(0, *bounds) + 0.02)
            axes.set_ylim(rows[at // across] - 0.5, -0.5)
            _draw_panel(axes, panel)


def _draw_panel(axes: Any, panel: Panel) -> None:
    """Draw the rows from the top down; of one method minus others, that method is told once, under the axis."""
    firsts = {label.partition(MINUS)[0] for label, _ in panel.rows}
    labels = [label for label, _ in panel.rows]
    if len(firsts) == 1:
        _, _, sampling = next(iter(firsts)).partition(", ")
        labels = [label.partition(MINUS)[2].removesuffix(f", {sampling}") for label in labels]
        axes.set_xlabel(f"{firsts.pop()}, minus each")
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (_, one) in enumerate(panel.rows):
        low, high = _ends(one)
        colour = _AHEAD if low > 0 else _BEHIND if high < 0 else _UNCLEAR
        axes.plot((low, high), (place, place), color=colour, linewidth=2)
        axes.plot(one.estimate, place, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(labels)), labels, fontsize="small")
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(panel.title)


def _ends(one: Interval) -> tuple[float, float]:
    """Return the ends of the interval; a difference without one reaches over 0, since it is not clear."""
    if one.low is None or one.high is None:
        return min(one.estimate, 0.0), max(one.estimate, 0.0)
    return one.low, one.high


def _interval(row: dict[str, str]) -> Interval:
    given = [row[_STATISTIC], *(row.get(f"{_STATISTIC} {end}") for end in ("low", "high"))]
    estimate, low, high = (float(text) if text else None for text in given)
    if estimate is None or not all(map(isfinite, (found for found in (estimate, low, high) if found is not None))):
        raise ValueError(f"{estimate} from {low} to {high}")
    return Interval(estimate, low, high)
