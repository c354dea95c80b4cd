"""iPhones, `ios:UDID` or `ios:all`: measured through devicectl by the demo app; only listed where there is no Xcode."""

from __future__ import annotations

import plistlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.devices.device import Description, Device, DeviceFailed, Options, Watch
from benchmarks.devices.ios_facts import READY, Facts, parse_facts, parse_list
from benchmarks.devices.ios_link import ANSWER_S, APP, LIST, LOCKED, NEEDS, Answer, Devicectl, Link, Runs, cause
from benchmarks.devices.ios_run import App
from benchmarks.devices.ios_usbmux import describe
from benchmarks.devices.remote import bundle_files, checked, sha256
from benchmarks.record import MAX_RECORD_BYTES, paper_figure
from lorarar.errors import InputError
from lorarar.files import parse_json
from runtime_py.bundle import MANIFEST, Bundle

HOT = ("serious", "critical")  # ProcessInfo.ThermalState, from which on iOS throttles


class Ios:
    """What is connected to this Mac, or to this computer's usbmuxd."""

    usage = "ios:UDID or ios:all"

    def __init__(self, runs: Runs | None = None, elsewhere: Callable[[], list[Description]] = describe) -> None:
        self.runs, self.elsewhere = runs or Devicectl(), elsewhere

    def describe(self) -> list[Description]:
        """Every connected iPhone and iPad."""
        return [_description(facts) for facts in self._list()] if self.runs.available() else self.elsewhere()

    def open(self, which: str, options: Options) -> list[Device]:
        """The phone of that UDID, or all that are connected, without Simulators."""
        if not which:
            raise InputError(f"--device ios names no device; give {self.usage}")
        if not self.runs.available():
            raise InputError(f"--device ios:{which}: measuring an iPhone needs {NEEDS}")
        _check_options(options)
        if which != "all":
            return [Iphone(self.runs, which)]
        there = [facts for facts in self._list() if not facts.simulated and facts.connection != "unavailable"]
        if not there:
            raise InputError(f"no iPhone is connected; plug one in, unlock it and trust this Mac, then see  {LIST}")
        return [Iphone(self.runs, facts.name) for facts in there]

    def _list(self) -> list[Facts]:
        answer = _list_devices(self.runs)
        if not answer.well:
            reason = cause(answer) or answer.last_words
            raise InputError(f"devicectl can't list devices ({reason}); open Xcode once, or restart this Mac")
        return parse_list(answer.result)


def _list_devices(runs: Runs) -> Answer:
    try:
        return runs.run(("list", "devices"), [], ANSWER_S, threading.Event())
    except TimeoutError:
        raise InputError(f"devicectl gave no answer for {ANSWER_S:.0f} s; restart this Mac") from None


def _description(facts: Facts) -> Description:
    emulated = " (Simulator)" if facts.simulated else ""
    system = f"iOS {facts.os_version or '?'}{emulated}"
    chip = facts.record.get("soc")
    return Description(f"ios:{facts.name}", facts.state, facts.model, chip, facts.architecture, system)


def _check_options(options: Options) -> None:
    names = {"runner": "--runner", "libraries": "--library", "cpus": "--cpus"}
    wrong = [option for name, option in names.items() if getattr(options, name)]
    if wrong:
        raise InputError(f"{wrong[0]} is for Android; leave it out with --device ios, which measures by the demo app")
    if options.ios_app is None:
        return
    identifier = _bundle_identifier(options.ios_app)
    if identifier is None:
        raise InputError(f"--ios-app {options.ios_app}: not an app; give the folder DEMO.app that Xcode built")
    if identifier != APP:
        raise InputError(f"--ios-app {options.ios_app}: this is {identifier}; give a build of {APP}")


def _bundle_identifier(app: Path) -> str | None:
    try:
        facts = plistlib.loads((app / "Info.plist").read_bytes())
    except (OSError, ValueError, plistlib.InvalidFileException):
        return None
    found = facts.get("CFBundleIdentifier") if isinstance(facts, dict) else None
    return found if isinstance(found, str) else None


class Iphone:
    """One iPhone, iPad or Simulator."""

    def __init__(self, runs: Runs, udid: str) -> None:
        self.name = f"ios:{udid}"
        self.link = Link(runs, udid)
        self.app = App(self.link)
        self.keep = False

    def measure(self, bundle: Bundle, component: str, options: Options, watch: Watch) -> dict[str, Any]:
        """Copy what is missing, let the app measure, and complete its record with what the Mac knows."""
        watch.say("asking the phone")
        facts = self._check()
        self.keep = options.keep
        self.app.prepare(options.ios_app, watch)
        part = bundle.component(component)
        digest = sha256(bundle.path / MANIFEST)
        watch.say("copying what changed")
        self.app.copy(bundle_files(bundle, part), digest)
        watch.say("measuring")
        record = _parse(self.app.measure(digest, component, options, watch))
        if isinstance(record.get("device"), dict):
            record["device"] |= facts.record
        record["kind"] = "emulated" if facts.simulated or record.get("kind") == "emulated" else "measured"
        record["paper"] = paper_figure(bundle.manifest["base"], component)
        record = checked(record, self.name, digest, part, "ios-app")
        _check_cool(record)
        record["notes"] = [*record["notes"], *notes(record)]
        return record

    def close(self) -> None:
        """Remove what was put there. DeviceFailed when the phone is out of reach."""
        if not self.keep:
            self.app.clean()

    def _check(self) -> Facts:
        """DeviceFailed unless it is connected, trusts this Mac, is in Developer Mode and unlocked."""
        facts = parse_facts(self.link.need("it can't be asked what it is", "device", "info", "details"))
        if facts.state != READY:
            raise DeviceFailed(facts.state)
        if not facts.simulated:
            lock = self.link.need("it can't be asked whether it is locked", "device", "info", "lockState")
            if lock.get("passcodeRequired") is True:
                raise DeviceFailed(LOCKED)
        return facts


def _parse(written: bytes) -> dict[str, Any]:
    """The app's record. DeviceFailed where it is none, or says why there is none."""
    try:
        record = parse_json(written, "the record", mend="measure again") if len(written) <= MAX_RECORD_BYTES else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise DeviceFailed("what the demo app wrote is no record; install its build of this version of the project")
    if "error" in record:
        reason = " ".join(str(record["error"]).split())[:500]
        raise DeviceFailed(f"the demo app gave no record: {reason}")
    parity = record.get("parity")
    if isinstance(parity, dict) and parity.get("status") != "passed":
        found = parity.get("psnr_db")
        size = f", {found:.1f} dB" if isinstance(found, int | float) else ""
        raise DeviceFailed(
            f"parity failed: its output is not PyTorch's{size}, so that its times are no result; see  lorarar check"
        )
    return record


def _check_cool(record: dict[str, Any]) -> None:
    conditions = record["conditions"]
    status, waited = conditions["before"]["thermal_status"], conditions["cooldown_s"] or 0.0
    if status in HOT:
        raise DeviceFailed(
            f"it is still too hot after {waited:.0f} s (thermal state {status}); let it lie, take it out of its "
            "case, or allow a longer --cooldown"
        )


def notes(record: dict[str, Any]) -> Sequence[str]:
    """What a reader of the times must know, besides what the app says."""
    before, after = record["conditions"]["before"], record["conditions"]["after"]
    said = []
    if before["thermal_status"] is None:
        said.append("the app tells no thermal state: not known to be cool")
    if after["thermal_status"] in HOT:
        said.append(f"throttled: thermal state {after['thermal_status']} after the run")
    if before["charging"]:
        said.append("charging, which warms the device")
    return said
