"""Coefficients that belong to a base's columns, whatever the two LoRAs are (not in the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.errors import InputError
from lorarar.layout import Layout, kind_of

Columns = tuple[tuple[str, int], ...]
"""Layers by their module names, each with the number of its inputs, which are ΔW's columns."""

MAX_WIDTHS = 64  # each is a layer that takes time to make, and a base has three or four


def layout_columns(layout: Layout, learned: Sequence[str]) -> Columns:
    """Return the columns of a base's layers of the learned kinds."""
    groups = layout.with_kinds(learned)
    return tuple((name, group.in_features) for group in groups for name in group.modules if kind_of(name) in learned)


def parse_columns(data: Mapping[str, Any]) -> Columns:
    """Read what `columns` of a checkpoint's config states: none in those from before it existed."""
    return tuple((str(name), int(inputs)) for name, inputs in data.get("columns", ()))


class ColumnOffsets(nn.Module):
    """A pair of numbers for each column of each layer, which are added to (m_c, m_s); untrained, they are 0."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        names: dict[int, list[str]] = {}
        for name, inputs in columns:
            names.setdefault(inputs, []).append(name)
        self._rows = {name: (inputs, row) for inputs, held in names.items() for row, name in enumerate(held)}
        if len(names) > MAX_WIDTHS:
            raise InputError(f"a predictor's columns are of at most {MAX_WIDTHS} widths, not {len(names):,}")
        if len(self._rows) < len(columns) or any(inputs < 1 for inputs in names):
            raise InputError("a predictor's columns are a positive number for each module, which is named once")
        self.values = nn.ParameterDict(
            {str(inputs): nn.Parameter(torch.zeros(len(held), 2, inputs)) for inputs, held in names.items()}
        )

    def __len__(self) -> int:
        """Count the layers that have offsets."""
        return len(self._rows)

    def forward(self, inputs: int, modules: Sequence[str]) -> Float[Tensor, "n 2 inp"]:
        """Return the offsets of n layers with so many inputs.

        Raises InputError for a layer that has none, or another number of inputs.
        """
        strangers = [name for name in modules if self._rows.get(name, (0, 0))[0] != inputs]
        if strangers or not modules:
            raise InputError(
                f"the predictor knows the columns of {len(self)} layers, and not those of "
                f"{strangers[0] if strangers else 'layers without a name'}; give one that was trained for this base"
            )
        return self.values[str(inputs)][[self._rows[name][1] for name in modules]]
