"""Draw the report's pictures as SVG: distributions, loads, and how times change during a run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lorarar.figures import PLAIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Rows = Sequence[tuple[str, Record]]
"""Each record's name in a picture, and the record."""

# Colour-blind readers tell them apart too; the report says the kind in words beside every figure.
COLOURS = {"measured": "#0071bc", "emulated": "#b35806", "estimated": "#7b3294"}
ROW_INCHES = 0.42
STYLE: dict[Any, Any] = {
    **PLAIN,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "lorarar",  # same records, same bytes
}


def pictures(rows: Rows) -> list[tuple[str, str, str]]:
    """Draw what there is to draw: a title, a sentence and the SVG of each picture."""
    import matplotlib as mpl

    # From the first text on, for that is when matplotlib decides what is mathematics.
    with mpl.rc_context(STYLE):
        drawn = [
            ("Every run", "Each dot is one run of a component; times of different kinds do not compare.", _times(rows)),
            ("Loading", "Cold is the first load of a process, warm the second.", _loads(rows)),
            ("During the run", "A line that climbs is a device that slows down as it gets hot.", _over_time(rows)),
        ]
    return [picture for picture in drawn if picture[-1]]


def _times(rows: Rows) -> str:
    """Draw every sample of every record as a dot, p50 as a bar, and an estimate as a bound.

    The axis is logarithmic, since devices lie orders of magnitude apart.
    """
    figure, axes = _figure(1.0 + ROW_INCHES * len(rows))
    for at, (_, record) in enumerate(rows):
        colour, samples = COLOURS[record["kind"]], record["runs"]["samples_s"]
        if samples:
            spread = np.linspace(-0.25, 0.25, len(samples)) if len(samples) > 1 else [0.0]
            axes.plot(np.array(samples) * 1e3, at + np.asarray(spread), ".", color=colour, alpha=0.5, markersize=4)
            axes.plot([record["runs"]["p50_s"] * 1e3] * 2, [at - 0.35, at + 0.35], color=colour, linewidth=2)
        else:
            axes.plot(record["estimate"]["latency_s"] * 1e3, at, ">", color=colour, markersize=7)
    _logarithmic(axes, "ms a run (bar: p50; ▷: a lower bound, never run)")
    _name_rows(axes, [name for name, _ in rows])
    return _svg(figure)


def _loads(rows: Rows) -> str:
    """Draw the cold and the warm load of the records that have both; return "" where none has."""
    rows = [(name, record) for name, record in rows if None not in record["load"].values()]
    if not rows:
        return ""
    figure, axes = _figure(1.0 + ROW_INCHES * len(rows))
    place = np.arange(len(rows))
    for key, offset, alpha, label in (("cold_s", -0.19, 1.0, "cold"), ("warm_s", 0.19, 0.45, "warm")):
        values = [record["load"][key] * 1e3 for _, record in rows]
        colours = [COLOURS[record["kind"]] for _, record in rows]
        axes.barh(place + offset, values, 0.36, color=colours, alpha=alpha, label=label)
    _logarithmic(axes, "ms to load (full: cold, pale: warm)")
    _name_rows(axes, [name for name, _ in rows])
    return _svg(figure)


def _over_time(rows: Rows) -> str:
    """Draw each run's time over the record's p50, by the seconds since the first run; return "" for too few runs."""
    rows = [(name, record) for name, record in rows if record["runs"]["n"] >= 5]
    if not rows:
        return ""
    figure, axes = _figure(3.2 + 0.2 * len(rows))
    styles = ("-", "--", ":", "-.")
    for at, (name, record) in enumerate(rows):
        samples = np.array(record["runs"]["samples_s"])
        share = samples / record["runs"]["p50_s"]
        colour = COLOURS[record["kind"]]
        axes.plot(np.cumsum(samples), share, styles[at % 4], color=colour, linewidth=1, label=name)
    axes.axhline(1, color="grey", linewidth=0.6)
    _logarithmic(axes, "seconds of running")
    axes.set_ylabel("time over p50")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=7)
    return _svg(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure of that many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


def _logarithmic(axes: Axes, label: str) -> None:
    """Make the axis logarithmic, with numbers at 1, 2 and 5 of every power of ten, as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="#ddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _svg(figure: Figure) -> str:
    """Return the picture's element alone; letters are outlines, so that it looks the same on every device."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
