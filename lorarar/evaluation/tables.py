"""Make the paper's tables from a run's results, as CSV and Markdown. Pure functions of `Results`; no toolchain."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from lorarar.evaluation.judges import THRESHOLD
from lorarar.evaluation.mars2 import RESAMPLES, Interval, Mars2, PairVerdicts, bootstrap, difference, score
from lorarar.evaluation.method_names import ABLATION, OURS
from lorarar.evaluation.metrics import METRICS
from lorarar.evaluation.results import CONTROLS, MethodInfo, Results
from lorarar.files import atomic_file
from lorarar.markdown import markdown_table

Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Table:
    """A table with a caption. A None cell was not measured; an Interval becomes three columns in CSV."""

    name: str  # of its files
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return the table under its title, with intervals as `0.71 [0.65, 0.77]`, and the note."""
        words = [any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]
        table = markdown_table(self.columns, [[show(cell) for cell in row] for row in self.rows], left=sum(words))
        return "\n".join([f"### {self.title}", "", table, "", *([self.note, ""] if self.note else [])])

    def csv(self) -> str:
        """Return the table as CSV, numbers in full precision; an interval is the column, `… low` and `… high`."""
        wide = [any(isinstance(row[place], Interval) for row in self.rows) for place in range(len(self.columns))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            name
            for column, interval in zip(self.columns, wide, strict=True)
            for name in ([column, f"{column} low", f"{column} high"] if interval else [column])
        )
        for row in self.rows:
            writer.writerow(value for cell, interval in zip(row, wide, strict=True) for value in _flat(cell, interval))
        return out.getvalue()


def show(cell: Cell) -> str:
    """Return a cell as text for people."""
    if cell is None:
        return "–"
    if isinstance(cell, Interval):
        return f"{cell.estimate:.2f} [{cell.low:.2f}, {cell.high:.2f}]"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def all_tables(results: Results, seed: int = 0, resamples: int = RESAMPLES) -> list[Table]:
    """Make every table that the results can fill; intervals are drawn with `seed`."""
    verdicts = {method.name: results.verdicts(method.name) for method in results.methods}
    scores = {name: score(pairs, seed, resamples) for name, pairs in verdicts.items()}
    tables = [
        table_1(results, scores),
        differences(results, verdicts, seed, resamples),
        table_2(results, scores),
        table_a2(results, seed, resamples),
        table_a3(results, scores),
        controls(results),
        breakdown(results, verdicts, "content"),
        breakdown(results, verdicts, "style"),
    ]
    return [table for table in tables if table.rows]


def table_1(results: Results, scores: Mapping[str, Mars2]) -> Table:
    """Make the table of MARS² of every method (paper, Table 1), and of subject and style apart."""
    rows = [
        (method.label, *(getattr(scores[method.name], name) for name in ("average", "best", "subject", "style")))
        for method in results.methods
    ]
    first = results.pairs[0]
    images = len(first.methods[results.methods[0].name])
    return Table(
        "table_1",
        "MARS²: images with the right subject and style",
        ("method", "average case", "best case", "subject", "style"),
        tuple(rows),
        f"Pairs: {len(results.pairs)} of the {results.settings.get('part', '')} part, {images} images each. 95 % "
        f"intervals by bootstrap over pairs. Judge: {results.judge.get('name', 'unknown')}.",
    )


def differences(
    results: Results, verdicts: Mapping[str, Sequence[PairVerdicts]], seed: int = 0, resamples: int = RESAMPLES
) -> Table:
    """Make the table of ours minus each other method, by the paired bootstrap.

    That is sharper than comparing two intervals of Table 1.
    """
    ours = next((method for method in results.methods if method.kind == OURS), None)
    rows: list[tuple[Cell, ...]] = []
    for method in results.methods if ours else ():
        if ours is None or method == ours:
            continue
        found = [
            difference(verdicts[ours.name], verdicts[method.name], name, seed, resamples)
            for name in ("average", "best")
        ]
        rows.append((f"{ours.label} − {method.label}", *(item.interval for item in found), found[0].above))
    return Table(
        "differences",
        "Differences in MARS², pair by pair",
        ("difference", "average case", "best case", "share of resamples above 0"),
        tuple(rows),
        "95 % intervals of the paired bootstrap; one that leaves out 0 is a clear difference.",
    )


def table_2(results: Results, scores: Mapping[str, Mars2]) -> Table:
    """Make the table of what a merge costs (paper, Table 2): medians over the pairs."""
    rows = []
    for method in results.methods:
        facts = [pair.merges[method.name] for pair in results.pairs]
        found = scores[method.name]
        extra = _median(fact.extra_bytes for fact in facts)
        rows.append(
            (
                method.label,
                _median(fact.seconds for fact in facts),
                _median(fact.coefficient_seconds for fact in facts),
                facts[0].parameters,
                found.attempts,
                found.expected_attempts,
                found.pairs_without,
                None if extra is None else extra / 1e6,
            )
        )
    return Table(
        "table_2",
        "Footprint",
        (
            "method",
            "merge, s",
            "coefficients, s",
            "parameters",
            "attempts to a good image",
            "expected attempts",
            "pairs without one",
            "extra memory, MB",
        ),
        tuple(rows),
        "Attempts: the position of the first accepted image in the order of the seeds, N + 1 for a pair without one; "
        "expected: the mean over all orders. Parameters of ZipLoRA and joint training are for one pair.",
    )


def table_a2(results: Results, seed: int = 0, resamples: int = RESAMPLES) -> Table:
    """Make the table of CLIP-I, DINO and CLIP-T (paper, Table A2), those that were measured."""
    used = [name for name in METRICS if any(name in image.metrics for image in _images(results))]
    rows: list[tuple[Cell, ...]] = []
    for method in results.methods if used else ():
        cells: list[Cell] = []
        for name in used:
            means = [np.mean([image.metrics[name] for image in pair.methods[method.name]]) for pair in results.pairs]
            cells.append(bootstrap(np.array(means, np.float64), seed, resamples))
        rows.append((method.label, *cells))
    left_out = [label for name, label in METRICS.items() if name not in used]
    source = results.settings.get("embedder") or {}
    note = "For information: each is largest when one reference is copied."
    if source.get("stands_in"):
        note += " The miniature judge's embeddings stand in for CLIP and DINO."
    if left_out:
        note += f" Without a model for it: {', '.join(left_out)}."
    return Table("table_a2", "Standard metrics", ("method", *(METRICS[name] for name in used)), tuple(rows), note)


def table_a3(results: Results, scores: Mapping[str, Mars2]) -> Table:
    """Make the table of ablations (paper, Table A3), with ours for comparison; empty when there are none."""
    ablations = [method for method in results.methods if method.kind == ABLATION]
    shown = [method for method in results.methods if method.kind in (ABLATION, OURS)] if ablations else []
    return Table(
        "table_a3",
        "Ablations by MARS²",
        ("learned", "average case", "best case"),
        tuple((method.label, scores[method.name].average, scores[method.name].best) for method in shown),
        f"On the {results.settings.get('part', '')} part.",
    )


def controls(results: Results) -> Table:
    """Make the table of how often the judge says yes to the right reference, and to another one.

    Two shares that are near each other mean that the judge does not look at the reference.
    """

    def share(method: MethodInfo, values: Callable[..., Iterable[float]]) -> float | None:
        found = [value for pair in results.pairs for image in pair.methods[method.name] for value in values(image)]
        return float(np.mean(np.array(found) > THRESHOLD)) if found else None

    def control(name: str) -> Callable[..., Iterable[float]]:
        return lambda image: [image.controls[name]] if name in image.controls else []

    rows = [
        (
            method.label,
            share(method, lambda image: image.p_subject),
            share(method, control("subject_swapped")),
            share(method, lambda image: [image.p_style]),
            share(method, control("style_swapped")),
            share(method, control("style_image_swapped")),
        )
        for method in results.methods
    ]
    return Table(
        "controls",
        "The judge's share of yes, with the right and with swapped references",
        ("method", "subject", "another subject", "style", "another style", "another style's image only"),
        tuple(rows) if any(name in image.controls for image in _images(results) for name in CONTROLS) else (),
        "One question a reference, before the majority. A judge that looks at the reference says yes less often to "
        "another one; the last column keeps the description and swaps the image alone.",
    )


def breakdown(results: Results, verdicts: Mapping[str, Sequence[PairVerdicts]], by: str) -> Table:
    """Make the table of MARS² of each subject, or of each style (paper, Fig. A7), average and best case."""
    names = list(dict.fromkeys(getattr(pair, by) for pair in results.pairs))
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        for method in results.methods:
            found = [pair for pair in verdicts[method.name] if getattr(pair, by) == name]
            average = float(np.mean([pair.joint.mean() for pair in found]))
            best = float(np.mean([pair.joint.any() for pair in found]))
            rows.append((name, method.label, average, best))
    return Table(f"per_{by}", f"MARS² of each {by}", (by, "method", "average case", "best case"), tuple(rows))


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write one CSV a table, and all of them into `tables.md`; return the paths."""
    texts = {f"{table.name}.csv": table.csv() for table in tables}
    texts["tables.md"] = "\n".join(table.markdown() for table in tables)
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _images(results: Results) -> Iterable:
    return (image for pair in results.pairs for images in pair.methods.values() for image in images)


def _median(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _flat(cell: Cell, interval: bool) -> list[str | int | float]:
    if isinstance(cell, Interval):
        return [cell.estimate, cell.low, cell.high]
    value = "" if cell is None else cell
    return [value, "", ""] if interval else [value]
