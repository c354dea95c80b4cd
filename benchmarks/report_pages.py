"""Write any number of benchmark records as one HTML page and as Markdown.

The page (report.html) is one file without a script or anything from elsewhere; it opens on a phone.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any

from benchmarks.record import DEVICE_GATES_DB, KINDS
from benchmarks.report_plots import pictures
from lorarar.markdown import markdown_table

Record = Mapping[str, Any]
MEANING = {
    "measured": "run on that hardware",
    "emulated": "run under an emulator: its results are right, its times say nothing of a phone",
    "estimated": "never run: a lower bound from operations and bytes",
}
COLUMNS = (
    *("device", "component", "bundle", "runtime", "kind", "p50", "p90", "p99", "first run"),
    *("cold load", "warm load", "peak memory", "parity", "LoRAs' gain", "heat", "paper"),
)
NUMBERS = ("p50", "p90", "p99", "first run", "cold load", "warm load", "peak memory", "parity", "LoRAs' gain")


def sort_key(record: Record) -> tuple[str, ...]:
    """Return what sorts records: component, then bundle, so that devices stand below each other."""
    bundle = record["bundle"]
    names = (bundle["base"], bundle["target"], bundle["precision"], record["device"]["model"])
    return (record["component"], *names, record["kind"], record["started_at"])


def row(record: Record) -> dict[str, str]:
    """Return a record's cells as plain text, with "–" for what the device didn't tell."""
    runs, load, bundle, memory = (record[key] for key in ("runs", "load", "bundle", "memory"))
    runtime, paper, estimate = record["runtime"], record["paper"], record["estimate"]
    bound = {"p50": f"≥ {_time(estimate['latency_s'])}"} if estimate else {}
    peak = f"{_size(memory['peak_bytes'])} {(memory['measure'] or '').upper()}".strip()
    backend = f"{runtime['backend']} on {runtime['compute_unit']}"
    count = runtime["threads"]
    threads = f", {count} thread{'s' if count > 1 else ''}" if count else ""
    found = {
        "device": _device(record),
        "component": record["component"],
        "bundle": f"{bundle['base']} {bundle['target']} {bundle['precision']}",
        "runtime": "never run" if estimate else f"{runtime['name']} {runtime['version']}, {backend}{threads}",
        "kind": record["kind"],
        **{key: _time(runs[f"{key}_s"]) for key in ("p50", "p90", "p99")},
        "first run": _time(runs["first_s"]),
        "cold load": _time(load["cold_s"]),
        "warm load": _time(load["warm_s"]),
        "peak memory": f"≥ {_size(estimate['memory_bytes'])}" if estimate else peak,
        "parity": _parity(record["parity"], bundle["precision"]),
        "LoRAs' gain": _gain(record["parity"]["delta"]),
        "heat": _heat(record["conditions"]),
        "paper": f"{_time(paper['seconds'])} on {paper['device']}: {paper['what']}" if paper else "–",
    }
    return found | bound


def short_names(records: Sequence[Record]) -> list[str]:
    """Return a name for every record's line in a picture; names that would be equal are numbered."""
    names = [
        f"{record['component']} · {' '.join(record['bundle'][key] for key in ('base', 'target', 'precision'))}\n"
        f"{record['device']['model'][:40]} · {record['kind']}"
        for record in records
    ]
    twice, seen = {name for name, count in Counter(names).items() if count > 1}, Counter[str]()
    for at, name in enumerate(names):
        if name in twice:
            seen[name] += 1
            names[at] = f"{name} · {seen[name]}"
    return names


def markdown(records: Sequence[Record]) -> str:
    """Return the Markdown: what the kinds mean, the table, and the notes."""
    present = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    lines = ["# Benchmarks", "", *(f"- **{kind}**: {MEANING[kind]}." for kind in present), ""]
    rows = []
    for record in records:
        cells = row(record)
        cells["kind"] = f"**{cells['kind']}**"
        rows.append([_for_markdown(cells[column]) for column in COLUMNS])
    lines.append(markdown_table(COLUMNS, rows, left=COLUMNS.index(NUMBERS[0])))
    notes = notes_of(records)
    if notes:
        lines += ["", "## Notes", "", *(f"- {_for_markdown(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def notes_of(records: Sequence[Record]) -> list[str]:
    """Return what the records say beside their figures, and the sources of estimates, each with what it is about."""
    found = []
    for record in records:
        said = [*record["notes"], *(record["estimate"]["sources"] if record["estimate"] else [])]
        found += [f"{_device(record)}, {record['component']}: {note}" for note in said]
    return list(dict.fromkeys(found))


def page(records: Sequence[Record]) -> str:
    """Return the whole HTML. Every text of a record is escaped, since records come from devices."""
    rows = list(zip(short_names(records), records, strict=True))
    counts = Counter(record["kind"] for record in records)
    legend = "".join(
        f'<li><span class="kind {kind}">{kind}</span> {counts[kind]} × {html.escape(MEANING[kind])}</li>'
        for kind in KINDS
        if counts[kind]
    )
    figures = "".join(
        f"<h2>{title}</h2><p>{html.escape(text)}</p><figure>{picture}</figure>"
        for title, text, picture in pictures(rows)
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in notes_of(records))
    template = Template((resources.files("benchmarks") / "report.html").read_text(encoding="utf-8"))
    return template.substitute(
        legend=legend,
        table=_table(records),
        figures=figures,
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
    )


def _table(records: Sequence[Record]) -> str:
    """Return a wide table, of which the style sheet makes a card for each record on a narrow screen."""
    head = "".join(f"<th{' class=number' if column in NUMBERS else ''}>{column}</th>" for column in COLUMNS)
    body = []
    for record in records:
        cells = row(record)
        tags = []
        for column in COLUMNS:
            text = html.escape(cells[column])
            text = f'<span class="kind {record["kind"]}">{text}</span>' if column == "kind" else text
            below = " below" if column == "parity" and record["parity"]["status"] == "below" else ""
            kind = f' class="number{below}"' if column in NUMBERS else ""
            tags.append(f'<td{kind} data-label="{column}">{text}</td>')
        body.append(f"<tr>{''.join(tags)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _device(record: Record) -> str:
    device = record["device"]
    system = " ".join(part for part in (device["os"], device["os_version"]) if part)
    return f"{device['model']} ({', '.join(part for part in (device['soc'], device['abi'], system) if part)})"


def _time(seconds: float | None) -> str:
    """Return a time with three digits, in s or ms."""
    if seconds is None:
        return "–"
    value, unit = (seconds, "s") if seconds >= 0.9995 else (seconds * 1e3, "ms")
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}"


def _size(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _parity(parity: Record, precision: str) -> str:
    """Return the PSNR, and which of the two bounds it breaks: that of any device, or the bundle's own."""
    if parity["status"] == "not_run":
        return "not run"
    psnr = "equal" if parity["psnr_db"] is None else f"{parity['psnr_db']:.1f} dB"
    if parity["status"] == "below":
        return f"{psnr}, below the gate of {DEVICE_GATES_DB[precision]:g} dB"
    return psnr if parity["within_tolerance"] else f"{psnr}, out of the bundle's tolerance"


def _gain(delta: Record | None) -> str:
    """Return the share of the LoRAs' effect that arrives."""
    return f"{delta['gain']:.4f}" if delta and delta["gain"] is not None else "–"


def _heat(conditions: Record) -> str:
    """Return the thermal status and the hottest sensor, before → after."""
    found = []
    for key in ("before", "after"):
        hottest = max(conditions[key]["temperatures_c"].values(), default=None)
        celsius = [f"{hottest:.0f}\u00a0°C"] if hottest is not None else []
        found.append(" ".join([*filter(None, [conditions[key]["thermal_status"]]), *celsius]))
    return " → ".join(text or "?" for text in found) if any(found) else "–"


def _for_markdown(text: str) -> str:
    """Make a text safe in Markdown: no new line, no HTML."""
    return html.escape(" ".join(text.split()), quote=False)
