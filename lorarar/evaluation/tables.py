"""Make the paper's tables from a run's results, as CSV and Markdown. Pure functions of `Results`; no toolchain."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, median

import numpy as np

from lorarar.evaluation.judges import THRESHOLD
from lorarar.evaluation.mars2 import (
    RESAMPLES,
    Interval,
    Mars2,
    PairVerdicts,
    crossed,
    difference,
    figures,
    means_by_name,
    score,
)
from lorarar.evaluation.method_names import ABLATION, ACFG, OURS, entry_of, sampling_of
from lorarar.evaluation.metrics import METRICS
from lorarar.evaluation.results import CONTROLS, MethodInfo, Results
from lorarar.files import atomic_file
from lorarar.markdown import markdown_table

Cell = str | int | float | Interval | None
DIFFERENCES = "differences"
SOMETIMES = (DIFFERENCES, "table_a2", "table_a3", "controls")
"""The tables that an evaluation may be without."""
MINUS = " − "


@dataclass(frozen=True)
class Table:
    """A table with a caption. A None cell was not measured; an Interval becomes three columns in CSV."""

    name: str  # of its files
    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def markdown(self) -> str:
        """Return the table under its title, with intervals as `0.71 [0.65, 0.77]`, and the note."""
        words = [any(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]
        table = markdown_table(self.columns, [[show(cell) for cell in row] for row in self.rows], left=sum(words))
        return "\n".join([f"### {self.title}", "", table, "", *([self.note, ""] if self.note else [])])

    def csv(self) -> str:
        """Return the table as CSV, numbers in full precision; an interval is the column, `… low` and `… high`."""
        columns: list[Sequence[Cell]] = []
        for place, name in enumerate(self.columns):
            cells = [row[place] for row in self.rows]
            if any(isinstance(cell, Interval) for cell in cells):
                ends = [astuple(cell) if isinstance(cell, Interval) else (cell, None, None) for cell in cells]
                columns += zip((name, f"{name} low", f"{name} high"), *ends, strict=True)
            else:
                columns.append([name, *cells])
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(zip(*columns, strict=True))
        return out.getvalue()


def show(cell: Cell) -> str:
    """Return a cell as text for people."""
    if cell is None:
        return "–"
    if isinstance(cell, Interval):
        if cell.low is None:
            return f"{cell.estimate:.2f}"
        return f"{cell.estimate:.2f} [{cell.low:.2f}, {cell.high:.2f}]"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def all_tables(results: Results, seed: int = 0, resamples: int = RESAMPLES) -> list[Table]:
    """Make every table that the results can fill; intervals are drawn with `seed`."""
    verdicts = {method.name: results.verdicts(method.name) for method in results.methods}
    scores = {name: score(pairs, seed, resamples) for name, pairs in verdicts.items()}
    tables = [
        table_1(results, scores),
        differences(results, verdicts),
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
    images = len(results.pairs[0].methods[results.methods[0].name])
    seeds = results.settings.get("seeds", [])
    runs = f", in {len(seeds)} runs" if len(seeds) > 1 else ""
    pairs = len({pair.name for pair in results.pairs})
    return Table(
        "table_1",
        "MARS²: images with the right subject and style",
        ("method", "average case", "best case", "subject", "style"),
        rows,
        f"Pairs: {pairs} of the {results.settings.get('part', '')} part, {images} image{'s' * (images > 1)} each{runs}."
        f" {_intervals(results, 'bootstrap')}. Judge: {results.judge.get('name', 'unknown')}.",
    )


def differences(results: Results, verdicts: Mapping[str, Sequence[PairVerdicts]]) -> Table:
    """Make the table of ours minus each other method, pair by pair: sharper than two intervals of Table 1.

    Merges are compared that are drawn in the same way.
    """
    ours = [method for method in results.methods if method.kind == OURS]
    rows: list[Sequence[Cell]] = []
    for one, other in product(ours, results.methods):
        if one != other and _are_compared(one.name, other):
            pairs = verdicts[one.name], verdicts[other.name]
            average, best = (difference(*pairs, name) for name in ("average", "best"))
            rows.append((f"{one.label}{MINUS}{other.label}", average, best))
    return Table(
        DIFFERENCES,
        "Differences in MARS², pair by pair",
        ("difference", "average case", "best case"),
        rows,
        f"{_intervals(results, 'two-way clustered variance,')}; one without 0 is a clear difference.",
    )


def _intervals(results: Results, how: str) -> str:
    names = zip(*(pair.name for pair in results.pairs), strict=True)
    if any(len(set(of_role)) < 2 for of_role in names):
        return "No intervals, which need two subjects and two styles"
    return f"95 % intervals by {how} over subjects and styles"


def _are_compared(ours: str, other: MethodInfo) -> bool:
    if other.kind == OURS:
        return other.name < ours  # once
    entry = entry_of(other.name)
    if entry is None or entry.merged:
        return sampling_of(ours) == sampling_of(other.name)
    # What a way to guide or a start gives would count for the merge.
    return sampling_of(ours) == (ACFG if entry.unguided else "")


def table_2(results: Results, scores: Mapping[str, Mars2]) -> Table:
    """Make the table of what a merge costs (paper, Table 2): medians over the pairs."""
    rows: list[dict[str, Cell]] = []
    for method in results.methods:
        facts = [pair.merges[method.name] for pair in results.pairs]
        found = scores[method.name]
        extra = _median(fact.extra_bytes for fact in facts)
        rows.append(
            {
                "method": method.label,
                "merge, s": _median(fact.seconds for fact in facts),
                "coefficients, s": _median(fact.coefficient_seconds for fact in facts),
                "parameters": facts[0].parameters,
                "attempts to a good image": found.attempts,
                "expected attempts": found.expected_attempts,
                "pairs without one": found.pairs_without,
                "extra memory, MB": None if extra is None else extra / 1e6,
            }
        )
    return Table(
        "table_2",
        "Footprint",
        tuple(rows[0]),
        [list(row.values()) for row in rows],
        "Attempts: the position of the first accepted image in the order of the seeds, N + 1 for a pair without one; "
        "expected: the mean over all orders. Parameters of ZipLoRA and joint training are for one pair.",
    )


def table_a2(results: Results, seed: int = 0, resamples: int = RESAMPLES) -> Table:
    """Make the table of CLIP-I, DINO and CLIP-T (paper, Table A2), those that were measured."""
    used = [name for name in METRICS if any(name in image.metrics for image in _images(results))]

    def mean(method: MethodInfo, name: str) -> Cell:
        images = [pair.methods[method.name] for pair in results.pairs]
        means = [float(np.mean([image.metrics[name] for image in of_pair])) for of_pair in images]
        return crossed(means_by_name([pair.name for pair in results.pairs], means), seed, resamples)

    rows: list[Sequence[Cell]] = []
    if used:
        rows = [[method.label, *(mean(method, name) for name in used)] for method in results.methods]
    left_out = [label for name, label in METRICS.items() if name not in used]
    source = results.settings.get("embedder") or {}
    note = "For information: each is largest when one reference is copied."
    if source.get("stands_in"):
        note += " The miniature judge's embeddings stand in for CLIP and DINO."
    if left_out:
        note += f" Without a model for it: {', '.join(left_out)}."
    return Table("table_a2", "Standard metrics", ("method", *(METRICS[name] for name in used)), rows, note)


def table_a3(results: Results, scores: Mapping[str, Mars2]) -> Table:
    """Make the table of ablations (paper, Table A3), with ours for comparison; empty when there are none."""
    ablations = [method for method in results.methods if method.kind == ABLATION]
    shown = [method for method in results.methods if method.kind in (ABLATION, OURS)] if ablations else []
    return Table(
        "table_a3",
        "Ablations by MARS²",
        ("learned", "average case", "best case"),
        [(method.label, scores[method.name].average, scores[method.name].best) for method in shown],
        f"On the {results.settings.get('part', '')} part.",
    )


def controls(results: Results) -> Table:
    """Make the table of how often the judge says yes to the right reference, and to another one.

    Two shares that are near each other mean that the judge does not look at the reference.
    """

    def share(answers: Iterable[float]) -> float | None:
        found = np.array(list(answers))
        return float(np.mean(found > THRESHOLD)) if len(found) else None

    rows: list[Sequence[Cell]] = []
    for method in results.methods:
        images = [image for pair in results.pairs for image in pair.methods[method.name]]
        swapped = [share(image.controls[name] for image in images if name in image.controls) for name in CONTROLS]
        subject = share(answer for image in images for answer in image.p_subject)
        style = share(image.p_style for image in images)
        rows.append((method.label, subject, swapped[0], style, *swapped[1:]))
    return Table(
        "controls",
        "The judge's share of yes, with the right and with swapped references",
        ("method", "subject", "another subject", "style", "another style", "another style's image only"),
        rows if any(name in image.controls for image in _images(results) for name in CONTROLS) else [],
        "One question a reference, before the majority. A judge that looks at the reference says yes less often to "
        "another one; the last column keeps the description and swaps the image alone.",
    )


def breakdown(results: Results, verdicts: Mapping[str, Sequence[PairVerdicts]], by: str) -> Table:
    """Make the table of MARS² of each subject, or of each style (paper, Fig. A7), average and best case."""
    names = list(dict.fromkeys(getattr(pair, by) for pair in results.pairs))
    rows: list[Sequence[Cell]] = []
    for name in names:
        for method in results.methods:
            found = [pair for pair in verdicts[method.name] if getattr(pair, by) == name]
            average, best = (fmean(figures(found, statistic).values()) for statistic in ("average", "best"))
            rows.append((name, method.label, average, best))
    return Table(f"per_{by}", f"MARS² of each {by}", (by, "method", "average case", "best case"), rows)


def remove_others(tables: Sequence[Table], folder: Path) -> None:
    """Remove what an earlier evaluation left in a folder of tables that this one does not have."""
    for name in {*SOMETIMES} - {table.name for table in tables}:
        (folder / f"{name}.csv").unlink(missing_ok=True)


def write_tables(tables: Sequence[Table], folder: Path, page: str = "tables.md") -> list[Path]:
    """Write one CSV a table, and all of them into `page`; return the paths."""
    texts = {f"{table.name}.csv": table.csv() for table in tables}
    texts[page] = "\n".join(table.markdown() for table in tables)
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _images(results: Results) -> Iterable:
    return (image for pair in results.pairs for images in pair.methods.values() for image in images)


def _median(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None
