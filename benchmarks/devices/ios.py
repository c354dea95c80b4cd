"""Measure on iPhones, `ios:UDID` or `ios:all`, by the demo app through devicectl; off a Mac, only list them."""

from __future__ import annotations

import plistlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.devices.device import Description, Device, DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.ios_facts import READY, IphoneFacts, parse_facts, parse_list
from benchmarks.devices.ios_link import LOCKED, NEEDS, Devicectl, DevicectlLink, cause
from benchmarks.devices.ios_run import App
from benchmarks.devices.ios_usbmux import describe
from benchmarks.devices.phone import ANSWER_S, APP, LIST, bundle_files, complete, parse_record, run_kind
from lorarar.errors import InputError
from runtime_py.bundle import Bundle
from runtime_py.hashes import file_sha256
from runtime_py.manifest import MANIFEST

EXECUTABLE = "LoraRarDemo"  # of the demo app, whatever its identifier is
HOT = ("serious", "critical")  # ProcessInfo.ThermalState, from which on iOS throttles


class Ios:
    """The kind of device that is connected to this Mac, or to this computer's usbmuxd."""

    usage = "ios:UDID or ios:all"
    takes = ("runs", "warmup", "threads", "timeout_s", "cooldown_s", "ios_app", "ios_app_id", "keep")

    def __init__(self, tool: Devicectl | None = None, elsewhere: Callable[[], list[Description]] = describe) -> None:
        self.tool, self.elsewhere = tool or Devicectl(), elsewhere

    def describe(self) -> list[Description]:
        """Describe every connected iPhone and iPad."""
        return [_description(facts) for facts in self._list()] if self.tool.available() else self.elsewhere()

    def open(self, which: str, options: MeasureOptions) -> list[Device]:
        """Return the phone of that UDID, or all that are connected, without Simulators."""
        if not which:
            raise InputError(f"`device` ios names no device; give {self.usage}")
        if not self.tool.available():
            raise InputError(f"`device` ios:{which}: measuring an iPhone needs {NEEDS}")
        app = _identifier(options)
        if which != "all":
            return [Iphone(self.tool, which, app)]
        there = [facts for facts in self._list() if not facts.simulated and facts.connection != "unavailable"]
        if not there:
            raise InputError(f"no iPhone is connected; plug one in, unlock it and trust this Mac, then see  {LIST}")
        return [Iphone(self.tool, facts.name, app) for facts in there]

    def _list(self) -> list[IphoneFacts]:
        try:
            answer = self.tool.run(("list", "devices"), [], ANSWER_S, threading.Event())
        except TimeoutError:
            raise InputError(f"devicectl gave no answer for {ANSWER_S:.0f} s; restart this Mac") from None
        if not answer.well:
            reason = cause(answer) or answer.last_words
            raise InputError(f"devicectl can't list devices ({reason}); open Xcode once, or restart this Mac")
        return parse_list(answer.result)


def _description(facts: IphoneFacts) -> Description:
    emulated = " (Simulator)" if facts.simulated else ""
    system = f"iOS {facts.os_version or '?'}{emulated}"
    chip = facts.record.get("soc")
    return Description(f"ios:{facts.name}", facts.state, facts.model, chip, facts.architecture, system)


def _identifier(options: MeasureOptions) -> str:
    """Return the demo app's identifier, which each developer may have to choose anew: Apple's are unique."""
    if options.ios_app is None:
        return options.ios_app_id or APP
    facts = _info(options.ios_app)
    found = facts.get("CFBundleIdentifier")
    if not isinstance(found, str) or not found:
        raise InputError(f"`ios_app` {options.ios_app}: not an app; give the folder DEMO.app that Xcode built")
    if found != APP and facts.get("CFBundleExecutable") != EXECUTABLE:
        raise InputError(f"`ios_app` {options.ios_app}: this is {found}; give a build of the demo app")
    if options.ios_app_id not in (None, found):
        raise InputError(f"`ios_app_id` is {options.ios_app_id}, but `ios_app` is {found}; give one of them")
    return found


def _info(app: Path) -> dict[str, Any]:
    try:
        facts = plistlib.loads((app / "Info.plist").read_bytes())
    except (OSError, ValueError, plistlib.InvalidFileException):
        return {}
    return facts if isinstance(facts, dict) else {}


class Iphone:
    """One iPhone, iPad or Simulator."""

    def __init__(self, tool: Devicectl, udid: str, app: str = APP) -> None:
        self.name = f"ios:{udid}"
        self.link = DevicectlLink(tool, udid, app)
        self.app = App(self.link)
        self.keep = False

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        """Copy what is missing, let the app measure, and complete its record with what the Mac knows."""
        watch.say("asking the phone")
        facts = self._check()
        self.keep = options.keep
        self.app.prepare(options.ios_app, watch)
        part = bundle.component(component)
        digest = file_sha256(bundle.path / MANIFEST)
        watch.say("copying what changed")
        self.app.copy(bundle_files(bundle, part), digest, watch)
        watch.say("measuring")
        record = parse_record(self.app.measure(digest, component, options, watch), "the demo app")
        if isinstance(record.get("device"), dict):
            record["device"] |= facts.record
        record["kind"] = run_kind(record, facts.simulated)
        complete(record, self.name, bundle, part, "ios-app")
        _check_cool(record)
        record["notes"] = [*record["notes"], *notes(record)]
        return record

    def close(self) -> None:
        """Remove what was put there. Raises DeviceFailed when the phone is out of reach."""
        if not self.keep:
            self.app.clean()

    def _check(self) -> IphoneFacts:
        """Raise DeviceFailed unless it is connected, trusts this Mac, is in Developer Mode and unlocked."""
        facts = parse_facts(self.link.need("it can't be asked what it is", "device", "info", "details"))
        if facts.state != READY:
            raise DeviceFailed(facts.state)
        if not facts.simulated:
            lock = self.link.need("it can't be asked whether it is locked", "device", "info", "lockState")
            if lock.get("passcodeRequired") is True:
                raise DeviceFailed(LOCKED)
        return facts


def _check_cool(record: dict[str, Any]) -> None:
    """Raise DeviceFailed for a run that began while iOS throttled."""
    conditions = record["conditions"]
    status, waited = conditions["before"]["thermal_status"], conditions["cooldown_s"] or 0.0
    if status in HOT:
        raise DeviceFailed(
            f"it is still too hot after {waited:.0f} s (thermal state {status}); let it lie, take it out of its "
            "case, or allow a longer `cooldown_s`"
        )


def notes(record: dict[str, Any]) -> Sequence[str]:
    """Return what a reader of the times must know, besides what the app says."""
    before, after = record["conditions"]["before"], record["conditions"]["after"]
    said = []
    if before["thermal_status"] is None:
        said.append("the app tells no thermal state: not known to be cool")
    if after["thermal_status"] in HOT:
        said.append(f"throttled: thermal state {after['thermal_status']} after the run")
    if before["charging"]:
        said.append("charging, which warms the device")
    return said
