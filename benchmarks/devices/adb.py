"""Measure on Android devices over adb, `adb:SERIAL` or `adb:all`: files, cool-down, a run and its record."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from typing import Any

from benchmarks.devices import adb_facts
from benchmarks.devices.adb_facts import AndroidFacts, Conditions
from benchmarks.devices.adb_link import HOME, READY, Adb, AdbLink, advice, connected
from benchmarks.devices.adb_run import PROGRAMS, RUNNER, Ran, run_app, run_native, stop_native
from benchmarks.devices.device import Description, Device, DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.phone import LIST, bundle_files, complete, parse_record, run_kind
from lorarar.errors import InputError
from runtime_py.bundle import Bundle
from runtime_py.component import Component
from runtime_py.hashes import file_sha256
from runtime_py.manifest import MANIFEST

COOL = ("none", "light", None)
LOOK_S = 5.0  # between looks at a device that is cooling down
BUSY = 0.25  # of the cores in use by other programs: above it a reader must know
MASK = re.compile(r"(0x)?[0-9a-fA-F]{1,16}")


class Android:
    """The kind of device that is connected to this computer's adb server."""

    usage = "adb:SERIAL or adb:all"
    takes = frozenset(item.name for item in fields(MeasureOptions)) - {"ios_app", "ios_app_id"}

    def __init__(self, adb: Adb | None = None) -> None:
        self.adb = adb or Adb()

    def describe(self) -> list[Description]:
        """Describe every connected device."""
        states = connected(self.adb)
        with ThreadPoolExecutor(max(len(states), 1)) as pool:
            return list(pool.map(self._describe, states, states.values()))

    def _describe(self, serial: str, state: str) -> Description:
        name = f"adb:{serial}"
        if state != READY:
            return Description(name, advice(state))
        try:
            facts = AndroidDevice(self.adb, serial).facts
        except DeviceFailed as error:
            return Description(name, str(error))
        device = facts.device
        system = f"Android {device['os_version'] or '?'}{' (emulated)' if facts.emulated else ''}"
        return Description(name, "ready", device["model"], device["soc"], device["abi"], system)

    def open(self, which: str, options: MeasureOptions) -> list[Device]:
        """Return the device of that serial, or all of them."""
        if not which:
            raise InputError(f"`device` adb names no device; give {self.usage}")
        _check_options(options)
        if which != "all":
            return [AndroidDevice(self.adb, which)]
        serials = list(connected(self.adb))
        if not serials:
            raise InputError(f"no Android device is connected; plug one in with USB debugging on, then see  {LIST}")
        return [AndroidDevice(self.adb, serial) for serial in serials]


def _check_options(options: MeasureOptions) -> None:
    if options.cpus not in (None, "big") and not MASK.fullmatch(options.cpus or ""):
        raise InputError(f"`cpus` is {options.cpus}: give big, or a hexadecimal mask such as f0 for cores 4 to 7")
    if options.app and (options.runner or options.libraries or options.cpus):
        raise InputError("`app` measures with the installed app: leave out `runner`, `libraries` and `cpus`")
    if not options.app and options.runner is None:
        raise InputError("give `runner` the native runner (benchmarks/runner/README.md builds it), or give `app`")
    for path in (*([options.runner] if options.runner else []), *options.libraries):
        if not path.is_file():
            raise InputError(f"{path}: no such file; benchmarks/runner/README.md says where it comes from")


class AndroidDevice:
    """One phone, tablet or emulator."""

    def __init__(self, adb: Adb, serial: str) -> None:
        self.name = f"adb:{serial}"
        self.link = AdbLink(adb, serial)
        self.touched = False

    @cached_property
    def facts(self) -> AndroidFacts:
        return adb_facts.parse_facts(self.link.shell(adb_facts.FACTS_SCRIPT).out)

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        """Copy what is missing, cool down, run, and complete the runner's record with what the host knows."""
        watch.say("asking the device")
        self.link.check()
        part = bundle.component(component)
        folder = f"{HOME}/{file_sha256(bundle.path / MANIFEST)}"
        self._copy(bundle, part, folder, options, watch)
        mask, pinned = self._cores(options)
        waited, before = cool_down(self._lit_conditions, options, watch)
        watch.say("measuring")
        if options.app:
            ran = run_app(self.link, folder, component, options, watch)
        else:
            ran = run_native(self.link, folder, component, bundle.manifest["target"], mask, options, watch)
        after = self.conditions()
        record = self._told_by_host(ran, before, after, waited)
        record["notes"] = [pinned, *notes(before, after, ran)]
        return complete(record, self.name, bundle, part, "android-app" if options.app else "native")

    def close(self) -> None:
        """Stop the runner and remove everything. Raises DeviceFailed when the device is out of reach."""
        if self.touched:
            stop_native(self.link)
            removed = self.link.shell(f"rm -rf {HOME}")
            if removed.code != 0:
                raise DeviceFailed(f"{HOME} can't be removed from it ({removed.last_words})")
            self.touched = False

    def conditions(self) -> Conditions:
        """Return how warm, charged and busy it is."""
        told = self.link.shell(adb_facts.CONDITIONS_SCRIPT).out
        return adb_facts.parse_conditions(told, self.facts.device["cores"])

    def _lit_conditions(self) -> Conditions:
        """Light the screen where it is dark, which it may be again after a look, and return the conditions."""
        self.link.shell("input keyevent KEYCODE_WAKEUP")
        return self.conditions()

    def _copy(self, bundle: Bundle, part: Component, folder: str, options: MeasureOptions, watch: Watch) -> None:
        watch.say("copying what changed")
        self.touched = not options.keep
        self.link.copy(bundle_files(bundle, part), folder, watch)
        if options.app:  # an app reads as another user than the shell
            self.link.shell(f"chmod -R a+rX {HOME}")
        elif options.runner is not None:
            programs = {RUNNER.rpartition("/")[2]: options.runner, **{path.name: path for path in options.libraries}}
            self.link.copy(programs, PROGRAMS, watch)
            self.link.shell(f"chmod 755 {RUNNER}")

    def _cores(self, options: MeasureOptions) -> tuple[str | None, str]:
        """Return the mask for taskset, of cores that there are, and the note that says on which cores it ran."""
        cores = self.facts.device["cores"]
        if options.cpus is None:
            return None, f"cores not pinned: the scheduler chose among {cores}"
        if options.cpus != "big":
            mask = f"{int(options.cpus, 16) & ((1 << cores) - 1):x}"  # Android's taskset knows no prefix
            if mask == "0":
                raise DeviceFailed(
                    f"`cpus` {options.cpus} names none of its {cores} cores; give up to {2**cores - 1:x}"
                )
            return mask, f"pinned to the cores of mask {mask}"
        big = adb_facts.big_cores(self.link.shell(adb_facts.LIMITS_SCRIPT).out)
        if not big:
            raise DeviceFailed("it doesn't tell which of its cores are faster; give `cpus` a mask, or leave it out")
        return f"{sum(1 << core for core in big):x}", f"pinned to its big cores: {', '.join(map(str, big))}"

    def _told_by_host(self, ran: Ran, before: Conditions, after: Conditions, waited: float) -> dict[str, Any]:
        record = parse_record(ran.text, "the runner")
        record["device"] = dict(self.facts.device)
        record["kind"] = run_kind(record, self.facts.emulated)
        record["conditions"] = {"before": before.condition, "after": after.condition, "cooldown_s": waited}
        if ran.pss_bytes is not None:
            record["memory"] = {"peak_bytes": ran.pss_bytes, "measure": "pss"}
        return record


def cool_down(read: Callable[[], Conditions], options: MeasureOptions, watch: Watch) -> tuple[float, Conditions]:
    """Wait until the device is cool, and return the seconds that this took and the conditions then.

    A device that tells neither a status nor a CPU's temperature is taken as it is. Raises DeviceFailed when it stays
    too hot.
    """
    waited = 0.0
    while True:
        now = read()
        hot = now.hottest_cpu_c is not None and now.hottest_cpu_c > options.max_celsius
        if now.thermal_status in COOL and not hot:
            return waited, now
        cpu = "not told" if now.hottest_cpu_c is None else f"{now.hottest_cpu_c:.0f} °C"
        state = f"thermal status {now.thermal_status or 'not told'}, CPU {cpu}"
        if waited >= options.cooldown_s:
            raise DeviceFailed(
                f"it is still too hot after {waited:.0f} s ({state}); let it lie, unplug it from its charger, or allow "
                "more with `cooldown_s` or `max_celsius`"
            )
        watch.say(f"cooling down: {state}")
        pause = min(LOOK_S, options.cooldown_s - waited)
        watch.wait(pause)
        waited += pause


def notes(before: Conditions, after: Conditions, ran: Ran) -> Sequence[str]:
    """Return what a reader of the times must know."""
    said = []
    if before.hottest_cpu_c is None and before.thermal_status is None:
        said.append("the device tells neither its thermal status nor its CPU's temperature: not known to be cool")
    if after.thermal_status not in COOL:
        said.append(f"throttled: thermal status {after.thermal_status} after the run")
    if False in (before.awake, after.awake):
        said.append("the screen was dark: Android may have given the run slow cores; keep it on")
    if before.condition["charging"]:
        said.append("charging, which warms the device")
    if (before.condition["load"] or 0) > BUSY:
        load = f"{before.condition['load']:.0%} of its cores were in use in the minute before the run"
        said.append(f"busy: {load}, this measurement's own work included")
    if ran.pss_bytes is not None:
        said.append("memory is the largest PSS of looks one second apart: a shorter peak is missed")
    return said
