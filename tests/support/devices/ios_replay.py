"""An iPhone that isn't there: devicectl's answers, replayed from JSON in the shapes that it writes.

The shapes and error codes are those of public captures, named in benchmarks/devices/ios_link.py; the phones in them
are made up.
"""

from __future__ import annotations

import copy
import json
import plistlib
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from devices.replay import Replay
from replayed_phone import record_of

from benchmarks.devices.device import MeasureOptions
from benchmarks.devices.ios_link import Devicectl, DevicectlOutput
from runtime_py.bundle import Bundle

OUTPUT = Path(__file__).parent / "ios_output"
UDID = "00008130-001A2B3C4D5E001C"
Rule = DevicectlOutput | Callable[[str], DevicectlOutput]
QUICK = MeasureOptions(cooldown_s=0.0, timeout_s=5.0, runs=7, warmup=2, threads=4)
CONSOLE = "Launched application with org.lorarar.demo bundle identifier.\nWaiting for the application to terminate…\n"


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OUTPUT / f"{name}.json").read_text(encoding="utf-8"))
    return found


def answer(name: str, out: str = "", **result: Any) -> DevicectlOutput:
    """A replayed document; `result` changes what is in its result."""
    found = document(name)
    found.get("result", {}).update(result)
    failed = found["info"]["outcome"] != "success"
    return DevicectlOutput(1 if failed else 0, out, "ERROR: it failed.\n" if failed else "", found)


def app_record(bundle: Bundle, /, **changes: Any) -> dict[str, Any]:
    """What the demo app writes for that bundle."""
    record = record_of(bundle, runner="ios-app")
    record["device"] |= {"model": "iPhone16,1", "os": "ios", "abi": "arm64", "cores": 6, "ram_bytes": 8 * 2**30}
    record["memory"] = {"peak_bytes": 250_000_000, "measure": "phys_footprint"}
    for moment in ("before", "after"):
        record["conditions"][moment] = copy.deepcopy(record["conditions"][moment]) | {"thermal_status": "nominal"}
    return record | changes


def app_folder(folder: Path, identifier: str = "org.lorarar.demo", executable: str = "LoraRarDemo") -> Path:
    """What Xcode builds, as far as it is looked at here."""
    folder.mkdir()
    facts = {"CFBundleIdentifier": identifier, "CFBundleExecutable": executable}
    (folder / "Info.plist").write_bytes(plistlib.dumps(facts))
    return folder


def writes(written: bytes) -> Callable[[str], DevicectlOutput]:
    """A `copy from` that brings that file."""

    def copy_from(command: str) -> DevicectlOutput:
        found = re.search(r"--destination (\S+)", command)
        assert found is not None
        Path(found[1]).write_bytes(written)
        return answer("copy")

    return copy_from


class ReplayedIphone(Replay[DevicectlOutput], Devicectl):
    """Answers as a phone would that measures well; a rule given first, by a pattern of the command, goes before."""

    def __init__(self, bundle: Bundle | None = None, rules: dict[str, Rule] | None = None) -> None:
        record = json.dumps(app_record(bundle)).encode() if bundle else b""
        well: dict[str, Rule] = {
            "^list devices": answer("list_2"),
            "info details": answer("details_2"),
            "info lockState": answer("lock_state"),
            "info apps": answer("apps"),
            "info processes": answer("processes"),
            "install app": answer("install"),
            "uninstall app": answer("install"),
            "copy to": answer("copy"),
            "copy from .*record-": writes(record),
            "copy from": answer("no_file"),
            "process launch": answer("launch", CONSOLE),
            "process terminate": answer("terminate"),
        }
        super().__init__(well)
        self.change(rules or {})

    def available(self) -> bool:
        return True

    def run(self, verb: Sequence[str], args: Sequence[str], timeout_s: float, stop: threading.Event) -> DevicectlOutput:
        assert timeout_s > 0 and not stop.is_set()
        return self.answer(" ".join([*verb, *args]))
