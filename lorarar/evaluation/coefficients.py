"""Show what the coefficients of merges depend on: the layer, the column, the content, the style, or the pair."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.evaluation.method_names import method_info
from lorarar.evaluation.run import Evaluation, Report
from lorarar.evaluation.tables import Cell, Table, write_tables
from lorarar.figures import mark_blocks, png_figure
from lorarar.layout import UNET, kind_of

ROLES = ("m_c", "m_s")
_BLOCK = re.compile(r"(down|mid|up)_blocks?(?:\.(\d+))?")
_BAND = (10, 90)  # percent of a layer's coefficients, over its columns and the pairs

Values = Mapping[str, Float[np.ndarray, "contents styles 2 _"]]
"""The coefficients of all pairs, by layer, in the layers' order."""


@dataclass(frozen=True)
class Shares:
    """The mean and standard deviation of all coefficients of a role, and the shares of the variance.

    A column's mean over all pairs is the layer's and the column's part; what a content or a style adds to it in all its
    pairs is theirs; the rest is the pair's. The shares are of the sum of squares, as in a two-way analysis of variance,
    and None where all coefficients are equal.
    """

    mean: float
    deviation: float
    layer: float | None
    column: float | None
    content: float | None
    style: float | None
    pair: float | None


def gather(evaluation: Evaluation, report: Report) -> dict[str, Values]:
    """Merge every pair by every method, without drawing, and return the coefficients by method.

    Raises InputError for a method that has none.
    """
    found: dict[str, Values] = {}
    sides = [list(dict.fromkeys(entry.name for entry in side)) for side in zip(*evaluation.pairs, strict=True)]
    for number, method in enumerate(evaluation.methods):
        layers: dict[str, list[np.ndarray]] = {}
        for done, (content, style) in enumerate(evaluation.pairs):
            report(f"{method.name}: {content.name} in {style.name}", number * len(evaluation.pairs) + done)
            made = method.make(evaluation.bench, content, style)
            if made.coefficients is None:
                raise InputError(f"{method.name} has no coefficients; leave it out of `methods`")
            for layer, pair in made.coefficients.items():
                layers.setdefault(layer, []).append(pair)
        uneven = [name for name, pairs in layers.items() if len(pairs) < len(evaluation.pairs)]
        if uneven:
            raise InputError(
                f"not all pairs have coefficients for {uneven[0]}: a LoRA has no such layer; compare LoRAs of the same "
                "layers"
            )
        if not layers:
            raise InputError(f"{method.name}: no pair has a layer with coefficients in both LoRAs; give other LoRAs")
        shape = tuple(map(len, sides))
        in_order = ((name, layers[name]) for name in sorted(layers, key=_depth))
        found[method.name] = {name: np.stack(pairs).reshape(*shape, *pairs[0].shape) for name, pairs in in_order}
    return found


def _depth(layer: str) -> list[tuple[int, str]]:
    """Return a key that sorts layers as they follow each other: down, mid and up, and numbers by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in layer.split(".")]


def shares(values: Values, role: int) -> Shares:
    """Return what the coefficients of a role (0: m_c, 1: m_s) depend on."""
    layers = [layer[:, :, role].astype(np.float64) for layer in values.values()]
    every = np.concatenate([layer.ravel() for layer in layers])
    mean, total = float(every.mean()), float(((every - every.mean()) ** 2).sum())
    sums = dict.fromkeys(("layer", "column", "content", "style"), 0.0)
    for layer in layers:
        contents, styles = layer.shape[:2]
        own = layer.mean(axis=(0, 1))
        sums["layer"] += layer.size * (own.mean() - mean) ** 2
        sums["column"] += contents * styles * ((own - own.mean()) ** 2).sum()
        sums["content"] += styles * ((layer.mean(axis=1) - own) ** 2).sum()
        sums["style"] += contents * ((layer.mean(axis=0) - own) ** 2).sum()
    sums["pair"] = total - sum(sums.values())
    parts = {name: max(0.0, float(value)) / total if total else None for name, value in sums.items()}
    return Shares(mean, float(every.std()), **parts)


def tables(found: Mapping[str, Values]) -> list[Table]:
    """Make the tables of what the coefficients depend on, and of their means by block and kind of layer."""
    depend: list[Sequence[Cell]] = []
    places: list[Sequence[Cell]] = []
    for method, values in found.items():
        label = method_info(method).label
        for role, name in enumerate(ROLES):
            told = shares(values, role)
            parts = (told.layer, told.column, told.content, told.style, told.pair)
            depend.append((label, name, told.mean, told.deviation, *parts))
        by_place: dict[tuple[str, str, str], list[np.ndarray]] = {}
        for layer, pairs in values.items():
            by_place.setdefault(_place(layer), []).append(pairs)
        for place, members in by_place.items():
            means = (float(np.concatenate([pairs[:, :, role].ravel() for pairs in members]).mean()) for role in (0, 1))
            places.append((label, *place, *means))
    return [
        Table(
            "coefficients",
            "What the coefficients depend on",
            ("method", "of", "mean", "sd", "layer", "column", "content", "style", "pair"),
            depend,
            "Shares of the variance: layer and column are the same for all pairs; a content's or a style's is the same "
            "in all its pairs.",
        ),
        Table(
            "coefficients_by_place",
            "Mean coefficients by block and kind of layer",
            ("method", "block", "attention", "layer", *ROLES),
            places,
        ),
    ]


def _place(layer: str) -> tuple[str, str, str]:
    """Return a layer's block, its attention and its kind, in words."""
    block = _BLOCK.search(layer)
    where = " ".join(filter(None, block.groups())) if block else layer.removeprefix(UNET).partition(".")[0]
    return where, "cross" if ".attn2." in layer else "self", str(kind_of(layer))


def draw(found: Mapping[str, Values], path: Path) -> None:
    """Draw each method's coefficients by layer: the mean, and a band that holds most of them."""
    with png_figure(path, 9, 2.6 * len(found)) as figure:
        for place, (method, values) in enumerate(found.items()):
            axes = figure.add_subplot(len(found), 1, place + 1)
            for role, name in enumerate(ROLES):
                layers = [pairs[:, :, role].ravel() for pairs in values.values()]
                low, high = np.array([np.percentile(layer, _BAND) for layer in layers]).T
                axes.fill_between(range(len(layers)), low, high, alpha=0.25, color=f"C{role}", linewidth=0)
                axes.plot([layer.mean() for layer in layers], color=f"C{role}", label=name)
            axes.set(title=method_info(method).label, ylabel="coefficient", xlim=(0, max(1, len(values) - 1)))
            mark_blocks(axes, [_place(layer)[0] for layer in values])
        told = f"mean, and\n{_BAND[0]} to {_BAND[1]} %"
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", title=told, fontsize="small")


def write(found: Mapping[str, Values], folder: Path) -> list[Table]:
    """Write the tables (a CSV each, and `coefficients.md`) and `coefficients.png` into a folder; return the tables."""
    made = tables(found)
    write_tables(made, folder, "coefficients.md")
    draw(found, folder / "coefficients.png")
    return made
