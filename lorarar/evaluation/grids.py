"""Draw pictures of a run: methods side by side (like the paper's Fig. 9), contents × styles (Fig. 10), bars (A7).

Each cell shows a pair's first image in the order of the seeds, never a chosen one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lorarar.evaluation.charts import draw_differences, panel_of
from lorarar.evaluation.results import PairRecord, Results
from lorarar.evaluation.tables import DIFFERENCES, Table
from lorarar.figures import png_figure
from lorarar.files import atomic_file
from lorarar.images import on_white, open_image
from lorarar.training.dataset import safe_name

_GAP = 6  # pixels between cells
_LINE = 16  # pixels of a label's line
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_MIN_CELL, _MAX_CELL = 96, 256
_MOST_ROWS = 25


def comparison_grid(results: Results, run: Path) -> Image.Image:
    """Draw a row a pair: its subject and style references, then each method's first image.

    Of more than 25 pairs (the paper's test has as many), each subject is shown once, the next one with the next style.
    """
    columns = ["subject", "style", *(method.label for method in results.methods)]
    rows = []
    for pair in _shown(results.pairs):
        firsts = [pair.methods[method.name][0].image for method in results.methods]
        rows.append([pair.subject_references[0], pair.style_reference, *firsts])
    return _grid(run, columns, rows)


def matrix_grid(results: Results, run: Path, method: str) -> Image.Image:
    """Draw one method: contents across, styles down, with their references along the edges."""
    contents = {pair.content: pair.subject_references[0] for pair in results.pairs}
    styles = {pair.style: pair.style_reference for pair in results.pairs}
    cells = {pair.name: pair.methods[method][0].image for pair in results.pairs}
    rows: list[list[str | None]] = [[None, *contents.values()]]
    rows += [[reference, *(cells.get((name, style)) for name in contents)] for style, reference in styles.items()]
    return _grid(run, ["", *contents], rows)


def bars(table: Table, path: Path) -> None:
    """Draw a `breakdown` table as grouped bars: average case filled, best case as an outline."""
    from matplotlib import colormaps  # an optional package, which the grids of images do without

    names = list(dict.fromkeys(str(row[0]) for row in table.rows))
    methods = list(dict.fromkeys(str(row[1]) for row in table.rows))
    values = {(row[0], row[1]): (float(str(row[2])), float(str(row[3]))) for row in table.rows}
    width = 0.84 / len(methods)
    colours = colormaps["tab10" if len(methods) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    with png_figure(path, max(6, 0.28 * len(names) * len(methods) + 3), 4) as figure:
        axes = figure.add_subplot()
        for place, method in enumerate(methods):
            at = [index + (place - (len(methods) - 1) / 2) * width for index in range(len(names))]
            averages, bests = zip(*(values[name, method] for name in names), strict=True)
            colour = colours[place % len(colours)]
            axes.bar(at, averages, width, color=colour, label=method)
            axes.bar(at, bests, width, fill=False, edgecolor=colour, linewidth=1)
        axes.set(xticks=range(len(names)), ylim=(0, 1.05), ylabel="MARS²", title=table.title)
        axes.set_xticklabels(names, rotation=20, ha="right")
        figure.legend(loc="outside right upper", fontsize="small", title="filled: average\noutline: best")


def write_pictures(results: Results, tables: Mapping[str, Table], run: Path, output: Path) -> list[Path]:
    """Write all pictures into `output` and return their paths; images are looked up from the folder `run`."""
    pictures = {"grid_methods.png": comparison_grid(results, run)}
    for method in results.methods:
        # Not grid_…, which a checkpoint of the name `methods` would take from all methods' grid.
        pictures[f"matrix_{safe_name(method.name)}.png"] = matrix_grid(results, run, method.name)
    for name, picture in pictures.items():
        with atomic_file(output / name) as temporary:
            picture.save(temporary)
    charts = {f"{name}.png": tables[name] for name in ("per_content", "per_style")}
    for name, table in charts.items():
        bars(table, output / name)
    written = [output / name for name in (*pictures, *charts)]
    chart = output / f"{DIFFERENCES}.png"
    if DIFFERENCES in tables:  # there are none where nothing is compared with LoRA.rar
        draw_differences([panel_of(tables[DIFFERENCES], tables[DIFFERENCES].title)], chart)
        written.append(chart)
    else:
        chart.unlink(missing_ok=True)  # of an earlier evaluation
    return written


def _shown(pairs: Sequence[PairRecord]) -> Sequence[PairRecord]:
    if len(pairs) <= _MOST_ROWS:
        return pairs
    contents = list(dict.fromkeys(pair.content for pair in pairs))
    styles = list(dict.fromkeys(pair.style for pair in pairs))
    return [pair for pair in pairs if contents.index(pair.content) % len(styles) == styles.index(pair.style)]


def _grid(run: Path, columns: Sequence[str], rows: Sequence[Sequence[str | None]]) -> Image.Image:
    widths = (open_image(run / path).width for row in rows for path in row if path is not None)
    largest = max(widths, default=_MIN_CELL)
    side = min(max(largest, _MIN_CELL), _MAX_CELL)
    step = side + _GAP
    font = ImageFont.load_default(12)
    labels = [_wrapped(text, side, font) for text in columns]
    top = _LINE * max(len(lines) for lines in labels) + _GAP
    sheet = Image.new("RGB", (_GAP + step * len(columns), top + step * len(rows)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, lines in enumerate(labels):
        for number, line in enumerate(lines):
            middle = _GAP + column * step + side / 2
            draw.text((middle, _GAP / 2 + number * _LINE), line, _INK, font, anchor="ma")
    for row, paths in enumerate(rows):
        for column, path in enumerate(paths):
            if path is not None:
                image = on_white(open_image(run / path))  # one at a time: all of a run may not fit into memory
                # Small images keep their pixels' edges when they grow by a whole factor; others are smoothed.
                scaling = Image.Resampling.LANCZOS if side % image.width else Image.Resampling.NEAREST
                fitted = ImageOps.pad(image, (side, side), scaling, color=_PAPER)
                sheet.paste(fitted, (_GAP + column * step, top + row * step))
    return sheet


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a text into lines no wider than `width` pixels, where its words allow it."""
    lines = [""]
    for word in text.replace("_", " ").split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
