"""What a user is shown of the coefficients: their medians by group, and a picture layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from lorarar.layout import Group, Layout
from runtime_py.merge import GroupMedians, coefficient_medians
from runtime_py.plot import COLOURS, plot_coefficients, unet_order

BLOCK = "transformer_blocks.0"
ORDERED = [
    f"down_blocks.1.attentions.0.{BLOCK}.attn1.to_q",
    f"down_blocks.1.attentions.0.{BLOCK}.attn1.to_out.0",
    f"down_blocks.1.attentions.0.{BLOCK}.attn2.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.2.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.10.attn1.to_q",
    f"down_blocks.1.attentions.1.{BLOCK}.attn1.to_q",
    f"down_blocks.2.attentions.0.{BLOCK}.attn1.to_q",
    f"mid_block.attentions.0.{BLOCK}.attn1.to_q",
    f"up_blocks.0.attentions.0.{BLOCK}.attn1.to_q",
]
# Two groups, neither of whose modules are in the order of the UNet.
LAYOUT = Layout("tiny", (Group("qo", 3, 3, tuple(ORDERED[7:2:-1])), Group("qo", 4, 4, (ORDERED[8], *ORDERED[:3]))))


def coefficients(modules: list[str]) -> dict[str, np.ndarray]:
    """(2, in) each: the content's median is a layer's place, the style's 100 more, and each mean another number."""
    widths = {module: group.in_features for group in LAYOUT.groups for module in group.modules}
    made = {}
    for module in modules:
        columns = np.array([-50.0, *[0.0] * (widths[module] - 2), 10.0]) + ORDERED.index(module)
        made[f"unet.{module}"] = np.stack([columns, columns + 100])
    return made


def test_medians_are_of_each_group_and_role() -> None:
    """Of all columns of all layers that have coefficients: of layers 3 to 7 without 4, and of 0, 1, 2 and 8."""
    found = coefficient_medians(LAYOUT, coefficients([name for name in ORDERED if name != ORDERED[4]]))
    assert found == [
        GroupMedians("qo_3x3", 4, np.median([3, 5, 6, 7]), np.median([103, 105, 106, 107])),
        GroupMedians("qo_4x4", 4, np.median([0, 1, 2, 8]), np.median([100, 101, 102, 108])),
    ]
    assert [median.group for median in coefficient_medians(LAYOUT, coefficients(ORDERED[:3]))] == ["qo_4x4"]


def test_modules_are_shown_as_the_unet_runs_them() -> None:
    shuffled = [ORDERED[place] for place in (4, 8, 1, 7, 3, 0, 6, 2, 5)]
    assert unet_order(shuffled) == ORDERED


def test_the_picture_has_each_role_s_medians_in_unet_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: dict[str, np.ndarray] = {}
    step = Axes.step

    def noted(self: Axes, x: Any, y: Any, **given: Any) -> Any:
        lines[given["color"]] = np.array([x, y])
        assert given["label"].startswith({COLOURS["content"]: "m_c", COLOURS["style"]: "m_s"}[given["color"]])
        return step(self, x, y, **given)

    monkeypatch.setattr(Axes, "step", noted)
    plot_coefficients(LAYOUT, coefficients(ORDERED), tmp_path / "m.png")
    layers = np.arange(len(ORDERED))
    np.testing.assert_array_equal(lines[COLOURS["content"]], [layers, layers])
    np.testing.assert_array_equal(lines[COLOURS["style"]], [layers, layers + 100])
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
