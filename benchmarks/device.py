"""Measure components of bundles on connected devices, and write one record for each; or estimate them for phones.

    lorarar bench device --device local --bundle BUNDLE [-o FILE]
    lorarar bench device --device adb:SERIAL --bundle BUNDLE --runner RUNNER [--library LIBRARY] [-o FILE]
    lorarar bench device --device ios:UDID --bundle BUNDLE [--ios-app DEMO.app] [-o FILE]
    lorarar bench device --estimate "Pixel 9" --bundle BUNDLE [-o FILE]
    lorarar bench device --list

Exits 1 when a device gave no record of something; what was measured is written all the same. `python -m
benchmarks.device` is the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.bounds import EstimatedPhone, find_phone, phones
from benchmarks.command import add_out
from benchmarks.devices.device import MeasureOptions
from benchmarks.devices.plan import USUAL, PlanResult, Say, device_kinds, open_devices, run_plan, tasks_of
from benchmarks.record import DEVICE_GATES_DB, write_records
from lorarar.command_line import (
    EXIT_FAILED_CHECK,
    EXIT_OK,
    Parser,
    add_settings,
    given_settings,
    interrupted_code,
    main_of,
    run_command,
)
from lorarar.console import console
from lorarar.errors import InputError
from lorarar.files import check_output, whole
from runtime_py.bundle import Bundle

CAPTIONS = {
    "emulated": "Times of an emulated device say nothing of a phone.",
    "estimated": "≥: a lower bound, from operations, bytes and data sheets; never run.",
}
OUT_OF_TOLERANCE = "*: out of the bundle's tolerance, see  lorarar check; the time counts all the same."
KIND_STYLE = {"measured": "green", "emulated": "bold yellow", "estimated": "bold magenta"}


def parser() -> Parser:
    """Make the command's parser."""
    usages = "; ".join(kind.usage for kind in device_kinds().values())
    made = Parser(prog="lorarar bench device", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--list", action="store_true", help="show what is connected, and end")
    add("--device", action="append", metavar="NAME", help=f"repeatable: {usages}")
    names = ", ".join(phone["name"] for phone in phones())
    add("--estimate", action="append", metavar="PHONE", help=f"lower bound, never run; repeatable: {names}")
    add("--bundle", action="append", type=Path, metavar="FOLDER", help="a bundle; repeatable")
    add("--component", action="append", metavar="NAME", help=f"repeatable (default: {' and '.join(USUAL)})")
    add_out(made, "write the records here, after each run")
    add_settings(made, MeasureOptions(), skip=["libraries"])
    add(
        "--library",
        dest="libraries",
        action="append",
        type=Path,
        metavar="FILE",
        help="Android: put it beside the runner; repeatable",
    )
    return made


def run(args: argparse.Namespace) -> int:
    """Show the list, or run the plan and show its records."""
    if args.list:
        given = [name for name, value in vars(args).items() if name != "list" and value is not None]
        if given:
            raise InputError(f"`list` shows what is connected and ends; leave `{given[0]}` out")
        show_list()
        return EXIT_OK
    if not (args.device or args.estimate) or not args.bundle:
        raise InputError("give a `device` or an `estimate`, and a `bundle`; or `list` to see what is connected")
    if args.out is not None:
        check_output(args.out, *whole(*args.bundle))
    options = given_settings(args, MeasureOptions())
    given = [item.name for item in fields(options) if getattr(args, item.name) is not None]
    devices = open_devices(device_kinds(), args.device or (), options, given)
    devices += [EstimatedPhone(find_phone(name)) for name in dict.fromkeys(args.estimate or ())]
    tasks = tasks_of([Bundle.open(path) for path in args.bundle], args.component or ())

    def keep(records: Sequence[dict[str, Any]]) -> None:
        if args.out is not None:
            write_records(records, args.out)

    with _bars([device.name for device in devices], len(tasks)) as say:
        result = run_plan(devices, tasks, options, say, keep)
    show_result(result, args.out)
    if result.mistake is not None:
        raise result.mistake
    if result.interrupted:
        return interrupted_code(result.interrupted)
    return EXIT_FAILED_CHECK if result.failures else EXIT_OK


@contextmanager
def _bars(devices: Sequence[str], total: int) -> Iterator[Say]:
    """Show a bar for each device while the block runs."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(
        text, BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), console=console(stderr=True)
    ) as progress:
        bars = {name: progress.add_task(name, total=total) for name in devices}
        yield lambda device, done, text: progress.update(bars[device], completed=done, description=f"{device} · {text}")


def show_list() -> None:
    """Print what is connected, one line a device, and which kinds can't be looked for."""
    from rich.table import Table

    table = Table()
    for column in ("device", "state", "model", "SoC", "ABI", "system"):
        table.add_column(column, overflow="fold")
    sentences = []
    for kind in device_kinds().values():
        try:
            for d in kind.describe():
                table.add_row(d.name, d.state, *(value or "–" for value in (d.model, d.soc, d.abi, d.system)))
        except InputError as error:
            sentences.append(str(error))
    console().print(table if table.row_count else "no device is connected", soft_wrap=False)
    for sentence in sentences:
        console().print(sentence)


def show_result(result: PlanResult, out: Path | None) -> None:
    """Print the records as a table that fits 80 columns, the failures as sentences, and where the records are."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    kinds_found = {record["kind"] for record in result.records}
    said = [sentence for kind, sentence in CAPTIONS.items() if kind in kinds_found]
    if any(record["parity"]["within_tolerance"] is False for record in result.records):
        said.append(OUT_OF_TOLERANCE)
    caption = " ".join(said)
    table = Table(box=SIMPLE_HEAD, caption=caption or None)
    table.add_column("device", overflow="fold")
    for column in ("what", "kind"):
        table.add_column(column, no_wrap=True)
    for column in ("p50\nms", "p90\nms", "cold\nload ms", "memory\nMB", "parity\ndB\ngain"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, record in result.named_records:
        device, what, *numbers = _row(name, record)
        table.add_row(device, what, Text(record["kind"].upper(), KIND_STYLE[record["kind"]]), *numbers)
    if table.row_count:
        console().print(table, soft_wrap=False)
    in_flags = parser().in_flags
    for failure in result.failures:
        sentence = f" {failure.device}, {failure.what}: {in_flags(failure.reason)}"
        console().print(Text.assemble(("failed", "red"), sentence))
    if out is not None:
        count = result.kept
        console().print(f"{count} record{'s' if count != 1 else ''} in {out}" if count else "no record was written")


def _row(name: str, record: dict[str, Any]) -> list[str]:
    bundle, runs, memory, bound = record["bundle"], record["runs"], record["memory"], record["estimate"]
    peak = f"{memory['peak_bytes'] / 1e6:.0f} {memory['measure']}" if memory["peak_bytes"] else "–"
    return [
        record["device"]["model"] if bound else f"{record['device']['model']}\n{name}",
        f"{record['component']}\n{bundle['target']} {bundle['precision']}",
        f"≥ {_ms(bound['latency_s'])}" if bound else _ms(runs["p50_s"]),
        _ms(runs["p90_s"]),
        _ms(record["load"]["cold_s"]),
        f"≥ {bound['memory_bytes'] / 1e6:.0f}" if bound else peak,
        _parity(record["parity"], bundle["precision"]),
    ]


def _parity(found: dict[str, Any], precision: str) -> str:
    """Return the PSNR, marked where the tolerance does not hold, over the gate that it misses and the LoRAs' gain."""
    if found["status"] == "not_run":
        return "–"
    psnr = "equal" if found["psnr_db"] is None else f"{found['psnr_db']:.1f}"
    gate = f"\n< {DEVICE_GATES_DB[precision]:g}" if found["status"] == "below" else ""
    gain = (found["delta"] or {}).get("gain")
    return f"{psnr}{'' if found['within_tolerance'] else '*'}{gate}" + ("" if gain is None else f"\n{gain:.4f}")


def _ms(seconds: float | None) -> str:
    """Return milliseconds with four digits: 0.412, 41.23, 41230."""
    if seconds is None:
        return "–"
    milliseconds = seconds * 1000
    return f"{milliseconds:.{max(0, 4 - max(1, len(str(int(milliseconds)))))}f}"


main = main_of(parser, run)

if __name__ == "__main__":
    run_command(main)
