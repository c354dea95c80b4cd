"""Open the devices of a plan, and measure every component on each of them.

Devices run side by side; a failure stops neither its device nor others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.devices.adb import Android
from benchmarks.devices.device import Device, DeviceFailed, DeviceKind, MeasureOptions, Watch
from benchmarks.devices.ios import Ios
from benchmarks.devices.local import Local
from lorarar.errors import InputError
from runtime_py.bundle import Bundle

USUAL = ("hypernet", "unet")
"""The components that are measured where none is named and the bundle has them."""


class PlanTask(NamedTuple):
    """One component of one bundle, to be measured on every device."""

    bundle: Bundle
    component: str

    def __str__(self) -> str:
        return f"{self.component} of {self.bundle.path}"


class Failure(NamedTuple):
    """Something that gave no record, and why, in one sentence."""

    device: str
    what: str
    reason: str


@dataclass
class PlanResult:
    """What a plan has given so far, in the plan's order."""

    rows: dict[tuple[int, int], tuple[str, dict[str, Any]]] = field(default_factory=dict)
    kept: int = 0  # records that `keep` has taken
    failures: list[Failure] = field(default_factory=list)
    interrupted: KeyboardInterrupt | None = None
    mistake: Exception | None = None  # of ours, or this computer's full disk: no device's failure, and the plan's end

    @property
    def named_records(self) -> list[tuple[str, dict[str, Any]]]:
        """Each record with the name of its device."""
        return [self.rows[key] for key in sorted(self.rows)]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for _, record in self.named_records]


def device_kinds() -> Mapping[str, DeviceKind]:
    """Return every kind of device, by the prefix of its names."""
    return {"local": Local(), "adb": Android(), "ios": Ios()}


def open_devices(
    kinds: Mapping[str, DeviceKind], names: Sequence[str], options: MeasureOptions, given: Collection[str]
) -> list[Device]:
    """Return each named device once, in the order of the names; without a name, only an estimate is made.

    `given` are the fields of the options that somebody chose; one that means nothing to any of the devices is refused.
    Raises InputError for that, and for a name that no kind of device takes.
    """
    chosen = []
    for name in names:
        prefix, _, which = name.partition(":")
        if prefix not in kinds:
            raise InputError(f"`device` {name}: give {'; '.join(kind.usage for kind in kinds.values())}")
        chosen.append((kinds[prefix], which))
    for option in given:
        if not any(option in kind.takes for kind, _ in chosen):
            raise InputError(f"`{option}` means nothing to {' or '.join(names) or 'an estimate'}; leave it out")
    return list({device.name: device for kind, which in chosen for device in kind.open(which, options)}.values())


def tasks_of(bundles: Sequence[Bundle], components: Sequence[str]) -> list[PlanTask]:
    """Return a task for every component asked for, of every bundle; without any, for the usual ones that it has.

    Raises InputError where a bundle lacks them.
    """
    tasks = []
    for bundle in bundles:
        have = bundle.manifest["components"]
        wanted = list(dict.fromkeys(components)) or [name for name in USUAL if name in have]
        if not wanted:
            raise InputError(f"{bundle.path}: it has no {' or '.join(USUAL)}; choose `component` {' or '.join(have)}")
        tasks += [PlanTask(bundle, bundle.component(name).name) for name in wanted]
    return tasks


Say = Callable[[str, int, str], None]
Keep = Callable[[Sequence[dict[str, Any]]], None]


def run_plan(
    devices: Sequence[Device],
    tasks: Sequence[PlanTask],
    options: MeasureOptions,
    say: Say = lambda device, done, text: None,
    keep: Keep = lambda records: None,
) -> PlanResult:
    """Run all tasks on all devices.

    `say` is called with a device's name, how many of its tasks are done and what it does now; `keep` with all records
    after each new one, from one thread at a time. Ctrl-C ends the runs and cleans the devices; the result then holds it
    in `interrupted`, and what else ended the plan in `mistake`.
    """
    plan = _Plan(tasks, options, say, keep)
    # An event is waited for, since Ctrl-C while Python 3.11 joins a thread makes it take the thread for ended.
    whole = threading.Thread(target=plan.run, args=(devices,))
    try:
        whole.start()
        plan.finished.wait()
    except KeyboardInterrupt as stop:
        plan.result.interrupted = stop
        plan.stop.set()
        if whole.ident is not None:
            plan.finished.wait()
    return plan.result


class _Plan:
    """A plan while its devices work, each in a thread of its own."""

    def __init__(self, tasks: Sequence[PlanTask], options: MeasureOptions, say: Say, keep: Keep) -> None:
        self.tasks, self.options, self.say, self.keep = tasks, options, say, keep
        self.result, self.lock = PlanResult(), threading.Lock()
        self.stop, self.finished = threading.Event(), threading.Event()

    def run(self, devices: Sequence[Device]) -> None:
        """Work on all devices, to the end."""
        try:
            with ThreadPoolExecutor(len(devices)) as pool:
                works = [pool.submit(self._work, place, device) for place, device in enumerate(devices)]
            for work in works:  # all have ended, and each device was cleaned up
                work.result()
        except Exception as error:
            self.result.mistake = error
        finally:
            self.finished.set()

    def _work(self, place: int, device: Device) -> None:
        """Do all tasks on one device, then clean it up, whatever happens."""
        try:
            for at, task in enumerate(self.tasks):
                if not self.stop.is_set():
                    self._measure(place, at, device, task)
        except Exception:
            self.stop.set()  # the plan has ended: the others need not measure for hours more
            raise
        finally:
            self.say(device.name, len(self.tasks), "cleaning up")
            try:
                device.close()
            except DeviceFailed as error:
                self._fail(device, "cleaning up", error)
            self.say(device.name, len(self.tasks), "done")

    def _measure(self, place: int, at: int, device: Device, task: PlanTask) -> None:
        watch = Watch(lambda text: self.say(device.name, at, f"{task.component}: {text}"), self.stop)
        try:
            record = device.measure(task.bundle, task.component, self.options, watch)
        except DeviceFailed as error:
            self._fail(device, str(task), error)
            return
        with self.lock:
            self.result.rows[place, at] = (device.name, record)
            self.keep(self.result.records)
            self.result.kept = len(self.result.rows)

    def _fail(self, device: Device, what: str, error: DeviceFailed) -> None:
        with self.lock:
            self.result.failures.append(Failure(device.name, what, str(error)))
