"""Draw a chart with matplotlib and write it as a PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = 64

PLAIN: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}
"""Style of every chart: names of users, files and devices are shown as they are, with a dollar sign in them too, also
where the user's own matplotlibrc has TeX set the text.
"""


@contextmanager
def png_figure(path: Path, width: int | float, height: int | float) -> Iterator[Figure]:
    """Yield a figure of so many inches to draw on, and write it to `path` at the end, in few colours to save bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # pyplot would set global state
    from PIL import Image

    with mpl.rc_context(PLAIN):  # from the first text on, for that is when matplotlib decides what is mathematics
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=120)
        with Image.open(drawn) as image, atomic_file(path) as temporary:
            image.convert("RGB").quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(
                temporary, format="png", optimize=True
            )


def mark_blocks(axes: Axes, blocks: Sequence[str]) -> None:
    """Name the blocks of a UNet below its layers, each in its middle, with a line where one begins.

    `blocks` are those of the layers, which stand at 0, 1, … on the x axis.
    """
    begins = [at for at, block in enumerate(blocks) if not at or blocks[at - 1] != block]
    for begin in begins[1:]:
        axes.axvline(begin - 0.5, color="lightgrey", linewidth=0.8)
    middles = [(begin + end - 1) / 2 for begin, end in zip(begins, [*begins[1:], len(blocks)], strict=True)]
    axes.set_xticks(middles, [blocks[begin] for begin in begins])
