"""What measuring on Android phones and on iPhones have in common: waiting, files, and records that come back.

Each kind of phone is reached through the program that its maker documents, `adb` or `xcrun devicectl`, by a layer as
thin as can be (`adb_link`, `ios_link`). Whoever develops for a phone has that program; its words and exit codes are all
that there is to know, so that tests replay them without a phone. The client libraries were looked at and left out:

- adbutils brings a second adb binary and sockets of its own, and still leaves the states and the sentences to us.
- pymobiledevice3 speaks to usbmuxd itself, but it is GPL-3.0 and takes 150 MB with what it needs. Only `ios_usbmux`
  uses it, to list iPhones off a Mac, where the extra `ios` is installed.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.devices.device import DeviceFailed, Watch
from benchmarks.record import MAX_RECORD_BYTES, check_record, paper_figure
from lorarar.errors import InputError
from lorarar.files import parse_json
from runtime_py.bundle import Bundle
from runtime_py.component import Component
from runtime_py.hashes import file_sha256
from runtime_py.manifest import MANIFEST

LIST = "lorarar bench device --list"
APP = "org.lorarar.demo"
"""The demo app's identifier, on Android and, unless it was built with another one, on iOS."""
# For a short command: a phone under load takes seconds for a dumpsys, and the first devicectl command to a phone mounts
# its developer disk image.
ANSWER_S = 60.0
SLOWEST_COPY = 1e6  # bytes a second, over Wi-Fi; USB 2 makes 20 times as many
NO_SPACE = re.compile(r"no space left|not enough space|out of (space|storage)|disk quota", re.IGNORECASE)


def signal_name(number: int) -> str:
    """Return a signal's name, such as SIGSEGV; `signal 120` for a number that has none."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def no_answer(timeout_s: float) -> DeviceFailed:
    """Make the error for a phone that did not answer a command in time."""
    return DeviceFailed(f"it gave no answer for {timeout_s:.0f} s; restart it, or use another cable")


def not_finished(limit_s: float) -> DeviceFailed:
    """Make the error for a run that took longer than it may."""
    return DeviceFailed(
        f"it didn't finish within {limit_s:.0f} s and was stopped; allow more with `timeout_s`, or give fewer `runs`"
    )


def wait_until(over: Callable[[], bool], limit_s: float, watch: Watch, pause_s: Callable[[], float]) -> bool:
    """Ask `over` again after each pause, and return whether it said yes in time.

    Raises DeviceFailed when the plan is interrupted.
    """
    end = time.monotonic() + limit_s
    while True:
        # Before the question: a slow phone's answer may come after the end, and still be yes.
        is_late = time.monotonic() > end
        if over():
            return True
        if is_late:
            return False
        watch.wait(min(pause_s(), limit_s))


def bundle_files(bundle: Bundle, component: Component) -> dict[str, Path]:
    """Return the files that a phone needs to run one component, by their path inside the bundle."""
    artifact = [component.path]
    if component.path.is_dir():
        artifact = [path for path in sorted(component.path.rglob("*")) if path.is_file()]
    files = [bundle.path / MANIFEST, *artifact, component.golden_path]
    return {path.relative_to(bundle.path).as_posix(): path for path in files}


def run_kind(record: Mapping[str, Any], emulated: bool) -> str:
    """Return the kind of a phone's record: emulated where the host or what ran there says so."""
    return "emulated" if emulated or record.get("kind") == "emulated" else "measured"


def parse_record(written: str | bytes, who: str) -> dict[str, Any]:
    """Parse what `who` wrote on the phone. Raises DeviceFailed where it is no record, or says why there is none."""
    mend = "install its build of this version of the project"
    record = None
    if len(written) <= MAX_RECORD_BYTES:
        with suppress(InputError):
            record = parse_json(written, who, mend=mend)
    if not isinstance(record, dict):
        raise DeviceFailed(f"what {who} wrote is no record; {mend}")
    if "error" in record:
        raise DeviceFailed(f"{who} gave no record: {' '.join(str(record['error']).split())[:500]}")
    return record


def complete(record: dict[str, Any], name: str, bundle: Bundle, part: Component, runner: str) -> dict[str, Any]:
    """Put the paper's figure in the record. Raises DeviceFailed unless it is valid then and of what was asked for."""
    record["paper"] = paper_figure(bundle.manifest["base"], part.name)
    try:
        check_record(record, name)
    except InputError as error:
        raise DeviceFailed(f"the runner's record is not valid: {error}") from None
    for what, have, wanted in (
        ("manifest", record["bundle"]["manifest_sha256"], file_sha256(bundle.path / MANIFEST)),
        ("artifact", record["artifact"]["sha256"], part.entry["sha256"]),
        ("component", record["component"], part.name),
        ("runner", record["runner"], runner),
    ):
        if have != wanted:
            raise DeviceFailed(f"the record is of another {what} ({have}, not {wanted}); measure again")
    return record
