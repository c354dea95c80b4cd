"""Write a summary for reading and for other programs: Markdown, CSV, and the paper's Fig. 7 as a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from human_study.store import Answer
from human_study.summary import Bounds, Share, Summary
from lorarar.figures import png_figure
from lorarar.files import atomic_file
from lorarar.markdown import markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("summary.md", "summary.csv", "answers.csv", "summary.png")
_COLORS = ("#1b6ca8", "#c9ced6", "#d98324")  # told apart by colour-blind readers and in grey
_INK = ("white", "#222222", "#222222")


def write_report(folder: Path, summaries: Sequence[Summary], answers: Sequence[Sequence[Answer]]) -> None:
    """Write FILES into `folder`, each atomically. `answers[i]` are those that `summaries[i]` was made from."""
    markdown, *tables, picture = (folder / name for name in FILES)
    with atomic_file(markdown) as path:
        path.write_text(to_markdown(summaries), encoding="utf-8")
    for table, rows in zip(tables, (_summary_rows(summaries), _answer_rows(summaries, answers)), strict=True):
        with atomic_file(table) as path, path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
    draw(picture, summaries)


def percent(share: float | None) -> str:
    """Return a share as text; a dash where there is none."""
    return "–" if share is None else f"{share:.1%}"


def interval(value: Bounds | None) -> str:
    """Return an interval of shares as text; a dash where there is none."""
    return "–" if value is None else f"{value[0]:.1%} to {value[1]:.1%}"


def share_row(share: Share) -> list[str]:
    """Return a share as the texts of a table's row: answer, count, share and its three intervals."""
    bounds = (share.by_participants, share.by_tasks, share.wilson)
    return [share.label, str(share.count), percent(share.share), *map(interval, bounds)]


def facts(summary: Summary) -> list[str]:
    """Return the sentences beside the table: who answered, how long it took, whether sides mattered, MARS²'s view."""
    lines = [
        f"{summary.answers} answers of {summary.participants} participants ({summary.complete} of them complete) "
        f"on {summary.tasks} pairs of images."
    ]
    if summary.median_seconds is not None:
        lines.append(f"Median time per answer: {summary.median_seconds:.1f} s.")
    first, sides = summary.first_option
    if sides:
        lines.append(f"Option 1 was chosen in {first} of the {sides} answers that preferred one ({first / sides:.1%}).")
    agreement = summary.agreement
    if agreement is not None:
        lines.append(
            f"Same as MARS² (first, similar or second): {agreement.same} of {agreement.answers} answers "
            f"({agreement.same / agreement.answers:.1%})."
        )
        if agreement.decided:
            lines.append(
                f"Where the person and MARS² both prefer one: the same in {agreement.same_decided} of "
                f"{agreement.decided} ({agreement.same_decided / agreement.decided:.1%})."
            )
        if agreement.correlation is not None:
            lines.append(f"Correlation over pairs of the mean answer with MARS²: {agreement.correlation:.2f}.")
    return lines


def to_markdown(summaries: Sequence[Summary]) -> str:
    """Return one section for each study, and how to read the intervals."""
    parts = ["# Human study\n"]
    for summary in summaries:
        parts.append(f"## {title(summary)}\n")
        if not summary.answers:
            parts.append("No answers yet.\n")
        columns = ("answer", "count", "share", "95 % by participants", "95 % by pairs", "95 % Wilson")
        parts.append(markdown_table(columns, [share_row(share) for share in summary.shares]) + "\n")
        parts.append("\n".join(f"- {line}" for line in facts(summary)) + "\n")
    parts.append(
        "Intervals by participants and by pairs are bootstrap percentiles with whole participants, or whole pairs, "
        "drawn again; a dash means fewer than two. Wilson's takes all answers as independent, which they are not: "
        "it is often too narrow, and given for studies of one participant.\n"
    )
    return "\n".join(parts)


def title(summary: Summary) -> str:
    """Return the study in a few words."""
    return f"{summary.methods[0]} against {summary.methods[1]}, {summary.case} images"


def draw(path: Path, summaries: Sequence[Summary]) -> None:
    """Draw the paper's Fig. 7: one stacked bar per study, with the intervals by participants (Wilson's for one)."""
    with png_figure(path, 8, 1.5 + 0.9 * len(summaries)) as figure:
        _draw_bars(figure, summaries)


def _draw_bars(figure: Figure, summaries: Sequence[Summary]) -> None:
    from matplotlib.patches import Patch

    axes = figure.add_subplot()
    for row, summary in enumerate(summaries):
        left = 0.0
        for place, share in enumerate(summary.shares[:3]):
            width = 100 * (share.share or 0.0)
            axes.barh(row, width, left=left, height=0.62, color=_COLORS[place])
            if width > 0:
                axes.text(
                    left + width / 2, row, _label(share, width), ha="center", va="center", color=_INK[place], fontsize=8
                )
            left += width
        if not summary.answers:
            axes.text(50, row, "no answers yet", ha="center", va="center", color="#555555")
    axes.set_yticks(range(len(summaries)), [_bar_name(summary, summaries) for summary in summaries])
    axes.set_ylim(len(summaries) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of answers in %, with 95 % intervals")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    labels = [share.label for share in summaries[0].shares[:3]]
    if len({summary.methods for summary in summaries}) > 1:
        labels = ["first method preferred", "similar", "second method preferred"]
    handles = [Patch(color=color, label=label) for color, label in zip(_COLORS, labels, strict=True)]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)


def _label(share: Share, width: float) -> str:
    text = percent(share.share)
    spread = share.by_participants or share.wilson
    # The interval is left out of a segment that is too narrow for it.
    if spread is None or width < 13:
        return text if width >= 6 else ""
    return f"{text}\n{100 * spread[0]:.0f} to {100 * spread[1]:.0f}"


def _bar_name(summary: Summary, summaries: Sequence[Summary]) -> str:
    name = f"{summary.case}\nn = {summary.answers}"
    if len({each.methods for each in summaries}) == 1:
        return name
    return f"{summary.methods[0]} / {summary.methods[1]}\n{name}"


def _summary_rows(summaries: Sequence[Summary]) -> Iterator[Sequence[object]]:
    bounds = [f"{kind}_{end}" for kind in ("participants", "tasks", "wilson") for end in ("low", "high")]
    yield ["study", "case", "answer", "count", "answers", "share", *bounds]
    for place, summary in enumerate(summaries):
        for share in summary.shares:
            ends = [
                end for each in (share.by_participants, share.by_tasks, share.wilson) for end in each or (None, None)
            ]
            numbers = ["" if number is None else f"{number:.6f}" for number in (share.share, *ends)]
            yield [place, summary.case, share.label, share.count, summary.answers, *numbers]


def _answer_rows(summaries: Sequence[Summary], answers: Sequence[Sequence[Answer]]) -> Iterator[Sequence[object]]:
    """Yield a header and every answer; `preferred` is the method or similar."""
    yield ["study", "case", *Answer._fields]
    for place, (summary, given) in enumerate(zip(summaries, answers, strict=True)):
        for *shown, preferred, seconds, corrections in given:
            yield [place, summary.case, *shown, preferred or "similar", f"{seconds:.3f}", corrections]
