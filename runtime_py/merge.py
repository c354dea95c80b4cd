"""Merge two LoRA files into one with a bundle's hypernetwork, as a phone does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lorarar.files import check_lora_output, check_png, whole
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, open_lora, write_lora
from lorarar.merging import Merged
from runtime_py.plot import modules_to_plot, plot_coefficients
from runtime_py.stages import OnStage, timed

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle


@dataclass(frozen=True)
class FileMergeResult:
    """What a merge of two files did, for a command to tell. Its LoRAs are read from the files when asked for."""

    merged: Merged
    content: LoRA
    style: LoRA
    runtime: str  # the runtime's name and version
    note: str  # what this run does not show of a device, or ""
    trained: bool  # False: the coefficients mean nothing
    seconds: Mapping[str, float]  # by stage


def merge_files(
    bundle: Bundle,
    content: Path,
    style: Path,
    out: Path,
    *,
    strengths: tuple[float, float] = (1.0, 1.0),
    dialect: str = "peft",
    dtype: str = "fp32",
    plot: Path | None = None,
    on_progress: OnStage = lambda *_: None,
) -> FileMergeResult:
    """Merge two LoRA files into one through a bundle's hypernetwork, as a phone does.

    `strengths` multiply the content's and the style's share. `dialect` and `dtype` are those of `write_lora`. `plot` is
    where a picture of the coefficients goes, as a PNG. `on_progress(stage, done, total)` is called before each stage.
    Raises InputError for a file that can't be read, LoRAs that do not fit the base or each other, a result that is not
    finite, an output that is no safetensors file, a picture that is no PNG, one of both that would overwrite an input,
    and a picture of LoRAs that share no learned layer.
    """
    _check_outputs(out, plot, content, style, *whole(bundle.path))
    seconds: dict[str, float] = {}
    total = 5 if plot is None else 6
    on_progress("reading the LoRAs", 0, total)
    with timed(seconds, "read"):
        first, second = open_lora(content), open_lora(style)
    session = bundle.session(keep=True)
    on_progress("stacking", 1, total)
    with timed(seconds, "stack"):
        session.load([first, second])
    on_progress("loading the hypernetwork", 2, total)
    with timed(seconds, "load the hypernetwork"):
        runner = session.open("hypernet")
    on_progress("merging", 3, total)
    with timed(seconds, "merge"):
        session.merge("learned", strengths=strengths)
        merged = session.merged()
    if plot is not None:
        modules_to_plot(bundle.layout, merged.coefficients or {})
    on_progress("writing", 4, total)
    with timed(seconds, "write"):
        write_lora(merged.lora, out, dialect=dialect, dtype=dtype)
    if plot is not None:
        on_progress("drawing the coefficients", 5, total)
        with timed(seconds, "plot"):
            plot_coefficients(bundle.layout, merged.coefficients or {}, plot)
    trained = bool(bundle.manifest["hypernetwork"]["trained"])
    return FileMergeResult(merged, first, second, f"{runner.runtime} {runner.version}", runner.note, trained, seconds)


def _check_outputs(out: Path, plot: Path | None, *inputs: Path) -> None:
    check_lora_output(out, *inputs)
    if plot is not None:
        check_png(plot, *inputs)


class GroupMedians(NamedTuple):
    """The median coefficients of one group's learned layers."""

    group: str
    layers: int
    content: float
    style: float


def coefficient_medians(layout: Layout, coefficients: Mapping[str, np.ndarray]) -> list[GroupMedians]:
    """Return the medians of coefficients (layer name → (2, in)) for each group that has any."""
    found = []
    for group in layout.groups:
        pairs = [coefficients[UNET + module] for module in group.modules if UNET + module in coefficients]
        if pairs:
            found.append(GroupMedians(group.name, len(pairs), *np.median(pairs, axis=(0, 2)).tolist()))
    return found
