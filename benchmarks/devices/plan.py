"""A plan: every component on every device. Devices run side by side; one that fails stops neither itself nor others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.devices.device import Device, DeviceFailed, Options, Watch
from runtime_py.bundle import Bundle


@dataclass(frozen=True)
class Job:
    """One component of one bundle, to be measured on every device."""

    bundle: Bundle
    component: str

    def __str__(self) -> str:
        return f"{self.component} of {self.bundle.path}"


@dataclass(frozen=True)
class Failure:
    """What gave no record, and why, in one sentence."""

    device: str
    what: str
    reason: str


@dataclass
class Outcome:
    """What a plan has given so far, in the plan's order."""

    rows: dict[tuple[int, int], tuple[str, dict[str, Any]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    interrupted: KeyboardInterrupt | None = None

    @property
    def named_records(self) -> list[tuple[str, dict[str, Any]]]:
        """Each record with the name of its device."""
        return [self.rows[key] for key in sorted(self.rows)]

    @property
    def records(self) -> list[dict[str, Any]]:
        return [record for _, record in self.named_records]


Say = Callable[[str, int, str], None]
Keep = Callable[[Sequence[dict[str, Any]]], None]


def run_plan(
    devices: Sequence[Device],
    jobs: Sequence[Job],
    options: Options,
    say: Say = lambda device, done, text: None,
    keep: Keep = lambda records: None,
) -> Outcome:
    """Measure. `say` hears a device's name, how many of its jobs are done and what it does now; `keep` gets all
    records after each new one, from one thread at a time. Ctrl-C ends the runs, cleans the devices and is told by
    `interrupted`.
    """
    plan = _Plan(jobs, options, say, keep)
    # Waiting for an event, since Ctrl-C while it joins a thread makes Python 3.11 take the thread for ended.
    whole = threading.Thread(target=plan.run, args=(devices,))
    try:
        whole.start()
        plan.finished.wait()
    except KeyboardInterrupt as stop:
        plan.outcome.interrupted = stop
        plan.stop.set()
        if whole.ident is not None:
            plan.finished.wait()
    if plan.mistake is not None:
        raise plan.mistake  # ours, or this computer's full disk: no device's failure
    return plan.outcome


class _Plan:
    """A plan while its devices work, each in its own thread."""

    def __init__(self, jobs: Sequence[Job], options: Options, say: Say, keep: Keep) -> None:
        self.jobs, self.options, self.say, self.keep = jobs, options, say, keep
        self.outcome, self.lock = Outcome(), threading.Lock()
        self.stop, self.finished = threading.Event(), threading.Event()
        self.mistake: Exception | None = None

    def run(self, devices: Sequence[Device]) -> None:
        """All devices, to the end."""
        try:
            with ThreadPoolExecutor(len(devices)) as pool:
                list(pool.map(self._work, range(len(devices)), devices))
        except Exception as error:
            self.mistake = error
        finally:
            self.finished.set()

    def _work(self, place: int, device: Device) -> None:
        """All jobs on one device, then its clean-up, whatever happens."""
        try:
            for at, job in enumerate(self.jobs):
                if not self.stop.is_set():
                    self._measure(place, at, device, job)
        finally:
            self.say(device.name, len(self.jobs), "cleaning up")
            try:
                device.close()
            except DeviceFailed as error:
                self._fail(device, "cleaning up", error)
            self.say(device.name, len(self.jobs), "done")

    def _measure(self, place: int, at: int, device: Device, job: Job) -> None:
        watch = Watch(lambda text: self.say(device.name, at, f"{job.component}: {text}"), self.stop)
        try:
            record = device.measure(job.bundle, job.component, self.options, watch)
        except DeviceFailed as error:
            self._fail(device, str(job), error)
            return
        with self.lock:
            self.outcome.rows[place, at] = (device.name, record)
            self.keep(self.outcome.records)

    def _fail(self, device: Device, what: str, error: DeviceFailed) -> None:
        with self.lock:
            self.outcome.failures.append(Failure(device.name, what, str(error)))
