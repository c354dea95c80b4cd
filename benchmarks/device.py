"""Measure components of bundles on connected devices, and write one record for each; or estimate them for phones.

    python -m benchmarks.device --device local --bundle BUNDLE [--json FILE]
    python -m benchmarks.device --device adb:SERIAL --bundle BUNDLE --runner RUNNER [--library LIBRARY] [--json FILE]
    python -m benchmarks.device --device ios:UDID --bundle BUNDLE [--ios-app DEMO.app] [--json FILE]
    python -m benchmarks.device --estimate "Pixel 9" --bundle BUNDLE [--json FILE]
    python -m benchmarks.device --list

Exits 1 when a device gave no record of something; what was measured is written all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.devices.device import Device, Options
from benchmarks.devices.kinds import kinds
from benchmarks.devices.plan import Job, Outcome, run_plan
from benchmarks.estimate import EstimatedPhone, find_phone, phones
from benchmarks.record import write_records
from lorarar.command_line import EXIT_FAILED_CHECK, EXIT_OK, Parser, interrupted_code, run_command
from lorarar.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from runtime_py.bundle import Bundle

USUAL = ("merger", "unet")
"""What is measured where no --component is given and the bundle has it."""
CAPTIONS = {
    "emulated": "Times of an emulated device say nothing of a phone.",
    "estimated": "≥: a lower bound, from operations, bytes and data sheets; never run.",
}
KIND_STYLE = {"measured": "green", "emulated": "bold yellow", "estimated": "bold magenta"}


def parser() -> Parser:
    usages = "; ".join(kind.usage for kind in kinds().values())
    usual = Options()
    made = Parser(prog="python -m benchmarks.device", description=__doc__.split("\n\n")[0])
    add = made.add_argument
    add("--list", action="store_true", help="show what is connected, and end")
    add("--device", action="append", default=[], metavar="NAME", help=f"repeatable: {usages}")
    names = ", ".join(phone["name"] for phone in phones())
    add(
        "--estimate",
        action="append",
        default=[],
        metavar="PHONE",
        help=f"lower bound, never run; repeatable: {names}",
    )
    add("--bundle", action="append", default=[], type=Path, metavar="FOLDER", help="a bundle; repeatable")
    add("--component", action="append", default=[], metavar="NAME", help="repeatable (default: merger and unet)")
    add("--runs", type=int, default=usual.runs, help="timed runs (default %(default)s)")
    add("--warmup", type=int, default=usual.warmup, help="runs before them (default %(default)s)")
    add("--threads", type=int, help="of the runtime (default: it chooses)")
    add("--json", type=Path, metavar="FILE", help="write the records here, after each run")
    add("--runner", type=Path, metavar="FILE", help="Android: the native runner, built for the device")
    add("--library", type=Path, action="append", default=[], metavar="FILE", help="Android: put beside it; repeatable")
    add("--app", action="store_true", help="Android: measure with the installed demo app instead of a runner")
    add("--ios-app", type=Path, metavar="FOLDER", help="iPhone: install this build of the demo app first")
    add("--cpus", metavar="big|MASK", help="Android: pin the runner to cores, by a hexadecimal mask")
    add("--keep", action="store_true", help="phones: leave the files there: the next plan copies only changes")
    add("--cooldown", type=float, default=usual.cooldown_s, help="longest wait before a run, s (default %(default)g)")
    add("--max-celsius", type=float, default=usual.max_celsius, help="hottest CPU for a start (default %(default)g)")
    add("--timeout", type=float, default=usual.timeout_s, help="longest run of a component, in s (default %(default)g)")
    return made


def read_options(given: argparse.Namespace) -> Options:
    """InputError names what is out of range."""
    for name, value, least in (
        ("--runs", given.runs, 1),
        ("--warmup", given.warmup, 0),
        ("--threads", given.threads, 1),
        ("--cooldown", given.cooldown, 0),
        ("--timeout", given.timeout, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"{name} must be {least} or more")
    if given.json is not None and given.json.is_dir():
        raise InputError(f"--json {given.json} is a folder; give a file")
    return Options(
        runs=given.runs,
        warmup=given.warmup,
        threads=given.threads,
        timeout_s=given.timeout,
        cooldown_s=given.cooldown,
        max_celsius=given.max_celsius,
        cpus=given.cpus,
        runner=given.runner,
        libraries=tuple(given.library),
        app=given.app,
        ios_app=given.ios_app,
        keep=given.keep,
    )


def open_devices(names: Sequence[str], options: Options) -> list[Device]:
    """Each named device once, in the order given. InputError for a name that no kind of device takes."""
    known = kinds()
    found: dict[str, Device] = {}
    for name in names:
        prefix, _, which = name.partition(":")
        if prefix not in known:
            usages = "; ".join(kind.usage for kind in known.values())
            raise InputError(f"--device {name}: give {usages}")
        found.update((device.name, device) for device in known[prefix].open(which, options))
    return list(found.values())


def jobs_of(bundles: Sequence[Bundle], components: Sequence[str]) -> list[Job]:
    """Every component asked for, of every bundle; without any, the usual ones that a bundle has."""
    jobs = []
    for bundle in bundles:
        have = bundle.manifest["components"]
        wanted = list(dict.fromkeys(components)) or [name for name in USUAL if name in have]
        if not wanted:
            raise InputError(f"{bundle.path}: it has no {' or '.join(USUAL)}; choose --component {' or '.join(have)}")
        jobs += [Job(bundle, bundle.component(name).name) for name in wanted]
    return jobs


def show_list(console: Console) -> None:
    """What is connected, one line a device; and which kinds can't be looked for."""
    from rich.table import Table

    table = Table()
    for column in ("device", "state", "model", "SoC", "ABI", "system"):
        table.add_column(column, overflow="fold")
    sentences = []
    for kind in kinds().values():
        try:
            for d in kind.describe():
                table.add_row(d.name, d.state, *(value or "–" for value in (d.model, d.soc, d.abi, d.system)))
        except InputError as error:
            sentences.append(str(error))
    console.print(table if table.row_count else "no device is connected", highlight=False)
    for sentence in sentences:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def show_outcome(console: Console, outcome: Outcome) -> None:
    """The records as a table that fits 80 columns, the failures as sentences."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    kinds_found = {record["kind"] for record in outcome.records}
    caption = " ".join(sentence for kind, sentence in CAPTIONS.items() if kind in kinds_found)
    table = Table(box=SIMPLE_HEAD, caption=caption or None)
    table.add_column("device", overflow="fold")
    for column in ("what", "kind"):
        table.add_column(column, no_wrap=True)
    for column in ("p50\nms", "p90\nms", "cold\nload ms", "memory\nMB", "parity\ndB"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, record in outcome.named_records:
        table.add_row(*_row(name, record))
    if table.row_count:
        console.print(table)
    for failure in outcome.failures:
        sentence = f" {failure.device}, {failure.what}: {failure.reason}"
        console.print(Text.assemble(("failed", "red"), sentence), soft_wrap=True)


def _row(name: str, record: dict[str, Any]) -> list[str]:
    bundle, runs, memory, parity = record["bundle"], record["runs"], record["memory"], record["parity"]
    bound = record["estimate"]
    equal = "equal" if parity["status"] == "passed" else "–"
    peak = f"{memory['peak_bytes'] / 1e6:.0f} {memory['measure']}" if memory["peak_bytes"] else "–"
    return [
        record["device"]["model"] if bound else f"{record['device']['model']}\n{name}",
        f"{record['component']}\n{bundle['target']} {bundle['precision']}",
        f"[{KIND_STYLE[record['kind']]}]{record['kind'].upper()}[/]",
        f"≥ {_ms(bound['latency_s'])}" if bound else _ms(runs["p50_s"]),
        _ms(runs["p90_s"]),
        _ms(record["load"]["cold_s"]),
        f"≥ {bound['memory_bytes'] / 1e6:.0f}" if bound else peak,
        equal if parity["psnr_db"] is None else f"{parity['psnr_db']:.1f}",
    ]


def _ms(seconds: float | None) -> str:
    """Four digits: 0.412, 41.23, 41230."""
    if seconds is None:
        return "–"
    milliseconds = seconds * 1000
    return f"{milliseconds:.{max(0, 4 - max(1, len(str(int(milliseconds)))))}f}"


def run(devices: Sequence[Device], jobs: Sequence[Job], options: Options, json: Path | None) -> Outcome:
    """The plan with its progress on the screen, and its records in the file after every run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = {device.name: progress.add_task(device.name, total=len(jobs)) for device in devices}

        def say(device: str, done: int, text: str) -> None:
            progress.update(tasks[device], completed=done, description=f"{device} · {text}")

        def keep(records: Sequence[dict[str, Any]]) -> None:
            if json is not None:
                write_records(records, json)

        return run_plan(devices, jobs, options, say, keep)


def main(argv: Sequence[str] | None = None) -> int:
    given = parser().parse_args(argv)
    options = read_options(given)

    from rich.console import Console

    from runtime_py.bundle import Bundle

    console = Console()
    if given.list:
        show_list(console)
        return EXIT_OK
    if not (given.device or given.estimate) or not given.bundle:
        raise InputError("give a --device or an --estimate, and a --bundle; or --list to see what is connected")
    devices = open_devices(given.device, options)
    devices += [EstimatedPhone(find_phone(name)) for name in dict.fromkeys(given.estimate)]
    jobs = jobs_of([Bundle.open(path) for path in given.bundle], given.component)
    outcome = run(devices, jobs, options, given.json)
    show_outcome(console, outcome)
    count = len(outcome.records)
    if given.json is not None:
        where = f"{count} record{'s' if count != 1 else ''} in {given.json}" if count else "no record was written"
        console.print(where, highlight=False, soft_wrap=True)
    if outcome.interrupted:
        return interrupted_code(outcome.interrupted)
    return EXIT_FAILED_CHECK if outcome.failures else EXIT_OK


if __name__ == "__main__":
    run_command(main)
