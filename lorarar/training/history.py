"""Keep the curves of a training: rows of the loss's terms, as CSV, as a picture, and as tensors for the state file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorarar.figures import png_figure
from lorarar.files import atomic_file

CURVES = ("train", "validation")


@dataclass(frozen=True)
class HistoryRow:
    """The terms of the loss after `step` steps, of a batch or the validation draw; `orthogonality` is without λ."""

    part: str  # a name of CURVES
    step: int
    total: float
    content: float
    style: float
    orthogonality: float
    joint: float  # without its weight; 0 where there is none
    learning_rate: float  # 0 for validation


@dataclass
class History:
    """The rows of a training in order, and the validation distances (content + style) of constant coefficients."""

    rows: list[HistoryRow] = field(default_factory=list)
    references: dict[str, float] = field(default_factory=dict)

    def part(self, name: str) -> list[HistoryRow]:
        """Return the rows of one curve."""
        return [row for row in self.rows if row.part == name]

    def totals(self) -> list[float]:
        """Return the training loss of each step done."""
        return [row.total for row in self.part("train")]

    def summary(self) -> dict[str, Any]:
        """Return the first, best and last validation terms and the references; empty without validation."""
        rows = self.part("validation")
        if not rows:
            return {}
        names = ("step", "total", "content", "style", "orthogonality", "joint")
        picked = {"first": rows[0], "best": min(rows, key=lambda row: row.total), "last": rows[-1]}
        found = {key: {name: getattr(row, name) for name in names} for key, row in picked.items()}
        return found | {"references": dict(self.references)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the history as float64 tensors, exactly."""
        rows = [(CURVES.index(row.part), *astuple(row)[1:]) for row in self.rows]
        found = {
            f"reference.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.references.items()
        }
        return found | {"history": torch.tensor(rows, dtype=torch.float64).reshape(-1, len(fields(HistoryRow)))}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> History:
        """Return the history in `tensors`; an empty one if there is none."""
        if "history" not in tensors:
            return cls()
        rows = [HistoryRow(CURVES[int(row[0])], int(row[1]), *row[2:]) for row in tensors["history"].tolist()]
        prefix = "reference."
        references = {name.removeprefix(prefix): float(t) for name, t in tensors.items() if name.startswith(prefix)}
        return cls(rows, references)

    def write_csv(self, path: Path) -> None:
        """Write one line a row."""
        with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([item.name for item in fields(HistoryRow)])
            writer.writerows(astuple(row) for row in self.rows)

    def write_picture(self, path: Path) -> None:
        """Draw a PNG: the distances against the references, content and style apart, and the orthogonality term."""
        with png_figure(path, 15, 4.2) as figure:
            left, middle, right = figure.subplots(1, 3)
            train, validation = self.part("train"), self.part("validation")
            steps, sums = _smoothed(train, [row.content + row.style for row in train])
            left.plot(steps, sums, color="0.7", label="training, smoothed")
            for (name, value), style in zip(self.references.items(), ("--", ":"), strict=False):
                left.axhline(value, color="0.3", linestyle=style, label=name)
            places = [row.step for row in validation]
            if validation:
                left.plot(places, [row.content + row.style for row in validation], color="C0", label="validation")
                middle.plot(places, [row.content for row in validation], color="C1", label="content, validation")
                middle.plot(places, [row.style for row in validation], color="C2", label="style, validation")
                right.plot(places, [row.orthogonality for row in validation], color="C3", label="validation")
                if any(row.joint for row in validation):
                    middle.plot(places, [row.joint for row in validation], color="C4", label="joint, validation")
            else:
                middle.plot(*_smoothed(train, [row.content for row in train]), color="C1", label="content, training")
                middle.plot(*_smoothed(train, [row.style for row in train]), color="C2", label="style, training")
            right.plot(*_smoothed(train, [row.orthogonality for row in train]), color="0.7", label="training, smoothed")
            titles = ("distance to the two LoRAs (Eq. 3)", "content, style, joint", "|m_c · m_s|, without λ")
            for axes, title in zip((left, middle, right), titles, strict=True):
                axes.set(title=title, xlabel="step")
                axes.legend(frameon=False)


def _smoothed(rows: Sequence[HistoryRow], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the mean step and value of up to 60 equal pieces: one step's depends mostly on its timesteps."""
    if not rows:
        return [], []
    pieces = np.array_split(np.arange(len(rows)), min(60, len(rows)))
    steps, numbers = np.array([row.step for row in rows], float), np.array(values, float)
    return [float(steps[piece].mean()) for piece in pieces], [float(numbers[piece].mean()) for piece in pieces]
