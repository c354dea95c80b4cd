"""What an artifact must reach, against the table that users read, which is written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.targets import TARGETS
from export.tolerance import TEXT_ENCODERS
from runtime_py.parity import Tolerance

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "targets.md"
PARTS = {
    "hypernetwork": ("hypernet",),
    "UNet, text encoders, VAE decoder": ("unet", *TEXT_ENCODERS, "vae_decoder"),
    "a whole image, by the UNet's precision": ("pipeline",),
}


@pytest.fixture(scope="module")
def told() -> dict[str, list[str]]:
    """The rows of the page's tables by their first cells, up to what is Core ML's own."""
    page = PAGE.read_text(encoding="utf-8").partition("## Core ML\n")[0]
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in cell.removesuffix("dB").replace("1 ±", "").split(",")]


def offered(component: str) -> dict[str, Tolerance]:
    """What any target must reach of a component, by precision."""
    found: dict[str, Tolerance] = {}
    for target in TARGETS.values():
        for precision, tolerance in target.tolerances.get(component, {}).items():
            assert found.setdefault(precision, tolerance) == tolerance
    return found


@pytest.mark.parametrize("part", PARTS)
def test_the_bounds_are_those_of_the_page(part: str, told: dict[str, list[str]]) -> None:
    precisions, decibels, errors = told[part]
    bounds = dict(zip(precisions.split(", "), zip(numbers(decibels), numbers(errors), strict=True), strict=True))
    for component in PARTS[part]:
        found = offered(component)
        assert found and {key: (at.psnr_db, at.max_error) for key, at in found.items()}.items() <= bounds.items()


def test_what_loras_change_has_the_bounds_of_the_page(told: dict[str, list[str]]) -> None:
    for component in ("unet", *TEXT_ENCODERS):
        for precision, tolerance in offered(component).items():
            assert tolerance.delta is not None
            (gain,), (cosine,) = map(numbers, told[precision])
            assert (tolerance.delta.gain_error, tolerance.delta.cosine) == (gain, cosine)
