"""One page of any number of benchmark records: tables, distributions, loads, throttling, the paper beside them.

    python -m benchmarks.report RECORD.json… -o report.html [--markdown report.md]

The HTML is one file without a script or anything from elsewhere; it opens on a phone.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import KINDS, read_records
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_file

Record = Mapping[str, Any]
MEANING = {
    "measured": "run on that hardware",
    "emulated": "run under an emulator: its results are right, its times say nothing of a phone",
    "estimated": "never run: a lower bound from operations and bytes",
}
COLUMNS = (
    *("device", "component", "bundle", "runtime", "kind", "p50", "p90", "p99", "first run"),
    *("cold load", "warm load", "peak memory", "parity", "heat", "paper"),
)
NUMBERS = ("p50", "p90", "p99", "first run", "cold load", "warm load", "peak memory", "parity")


def sort_key(record: Record) -> tuple[str, ...]:
    """By component, then bundle, so that devices stand below each other."""
    bundle = record["bundle"]
    names = (bundle["base"], bundle["target"], bundle["precision"], record["device"]["model"])
    return (record["component"], *names, record["kind"], record["started_at"])


def row(record: Record) -> dict[str, str]:
    """A record's cells, as plain text; "–" for what the device didn't tell."""
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
        "parity": _parity(record["parity"]),
        "heat": _heat(record["conditions"]),
        "paper": f"{_time(paper['seconds'])} on {paper['device']}: {paper['what']}" if paper else "–",
    }
    return found | bound


def short_names(records: Sequence[Record]) -> list[str]:
    """A name for every record's line in a picture; numbered where two are the same."""
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
    """The table, what the kinds mean, and the notes."""
    present = [kind for kind in KINDS if any(record["kind"] == kind for record in records)]
    lines = ["# Benchmarks", "", *(f"- **{kind}**: {MEANING[kind]}." for kind in present), ""]
    lines += ["| " + " | ".join(COLUMNS) + " |"]
    lines += ["|" + "|".join(" ---: " if column in NUMBERS else " --- " for column in COLUMNS) + "|"]
    for record in records:
        cells = row(record)
        cells["kind"] = f"**{cells['kind']}**"
        lines.append("| " + " | ".join(_for_markdown(cells[column]) for column in COLUMNS) + " |")
    notes = notes_of(records)
    if notes:
        lines += ["", "## Notes", "", *(f"- {_for_markdown(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def notes_of(records: Sequence[Record]) -> list[str]:
    """What the records say beside their figures, each with what it is about; sources of estimates too."""
    found = []
    for record in records:
        said = [*record["notes"], *(record["estimate"]["sources"] if record["estimate"] else [])]
        found += [f"{_device(record)}, {record['component']}: {note}" for note in said]
    return list(dict.fromkeys(found))


def page(records: Sequence[Record]) -> str:
    """The whole HTML. Every text of a record is escaped: records come from devices."""
    from benchmarks.report_plots import plot_loads, plot_over_time, plot_times

    rows = list(zip(short_names(records), records, strict=True))
    counts = Counter(record["kind"] for record in records)
    legend = "".join(
        f'<li><span class="kind {kind}">{kind}</span> {counts[kind]} × {html.escape(MEANING[kind])}</li>'
        for kind in KINDS
        if counts[kind]
    )
    pictures = [
        ("Every run", plot_times(rows), "Each dot is one run of a component; times of different kinds do not compare."),
        ("Loading", plot_loads(rows), "Cold is the first load of a process, warm the second."),
        ("During the run", plot_over_time(rows), "A line that climbs is a device that slows down as it gets hot."),
    ]
    figures = "".join(
        f"<h2>{title}</h2><p>{html.escape(text)}</p><figure>{picture}</figure>"
        for title, picture, text in pictures
        if picture
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in notes_of(records))
    return PAGE.format(
        legend=legend,
        table=_table(records),
        figures=figures,
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
    )


def _table(records: Sequence[Record]) -> str:
    """A wide table; on a narrow screen each record becomes a card, by the style sheet."""
    head = "".join(f"<th{' class=number' if column in NUMBERS else ''}>{column}</th>" for column in COLUMNS)
    body = []
    for record in records:
        cells = row(record)
        tags = []
        for column in COLUMNS:
            text = html.escape(cells[column])
            text = f'<span class="kind {record["kind"]}">{text}</span>' if column == "kind" else text
            kind = " class=number" if column in NUMBERS else ""
            tags.append(f'<td{kind} data-label="{column}">{text}</td>')
        body.append(f"<tr>{''.join(tags)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _device(record: Record) -> str:
    device = record["device"]
    system = " ".join(part for part in (device["os"], device["os_version"]) if part)
    return f"{device['model']} ({', '.join(part for part in (device['soc'], device['abi'], system) if part)})"


def _time(seconds: float | None) -> str:
    """Three digits, in the unit that suits."""
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms"


def _size(count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _parity(parity: Record) -> str:
    if parity["status"] != "passed":
        return "not run"
    return "equal" if parity["psnr_db"] is None else f"{parity['psnr_db']:.1f} dB"


def _heat(conditions: Record) -> str:
    """Thermal status and the hottest sensor, before → after."""
    found = []
    for key in ("before", "after"):
        hottest = max(conditions[key]["temperatures_c"].values(), default=None)
        celsius = [f"{hottest:.0f}\u00a0°C"] if hottest is not None else []
        found.append(" ".join([*filter(None, [conditions[key]["thermal_status"]]), *celsius]))
    return " → ".join(text or "?" for text in found) if any(found) else "–"


def _for_markdown(text: str) -> str:
    """Safe in a cell: no new column, no new line, no HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>LoRA.rar benchmarks</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1500px; padding: 1rem; color: #222; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
ul {{ padding-left: 1.2rem; }} ul.legend {{ list-style: none; padding: 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: .85rem; }}
th, td {{ text-align: left; padding: .35rem .4rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
td[data-label="device"] {{ min-width: 9rem; }} td[data-label="heat"] {{ min-width: 4rem; }}
.number {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.kind {{ border-radius: .5rem; padding: 0 .45rem; color: #fff; font-weight: 600; white-space: nowrap; }}
.measured {{ background: #0071bc; }} .emulated {{ background: #b35806; }} .estimated {{ background: #7b3294; }}
figure {{ margin: 0; overflow-x: auto; }} figure svg {{ width: 100%; height: auto; min-width: 36rem; }}
@media (max-width: 86rem) {{
  thead {{ display: none; }} table, tbody, tr, td {{ display: block; }}
  tr {{ border: 1px solid #ccc; border-radius: .5rem; margin: .8rem 0; padding: .3rem .6rem; }}
  td, td.number {{
    white-space: normal; display: flex;
    justify-content: space-between; gap: 1rem; text-align: right; border: 0; padding: .15rem 0;
  }}
  td::before {{ content: attr(data-label); color: #666; text-align: left; flex: none; }}
}}
</style>
<h1>LoRA.rar benchmarks</h1>
<ul class="legend">{legend}</ul>
{table}
{figures}
{notes}
</html>
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD.json", help="files of python -m benchmarks.…")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="HTML", help="the page")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table and notes as Markdown too")
    options = parser.parse_args(argv)
    for path in filter(None, (options.output, options.markdown)):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give a file")
    records = sorted((record for path in options.records for record in read_records(path)), key=sort_key)
    text = page(records)
    for path, content in ((options.output, text), (options.markdown, markdown(records))):
        if path is not None:
            with atomic_file(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    print(f"{len(records)} records in {options.output}; open it in a browser")
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
