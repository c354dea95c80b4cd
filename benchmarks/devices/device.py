"""What a device does that a benchmark can run on, and how it is told what to do. No toolchain is imported here."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lorarar.errors import InputError
from lorarar.settings import check_at_least, check_positive, setting
from runtime_py.bundle import Bundle


class DeviceFailed(Exception):
    """Why a device gave no record of a component: one plain sentence. The rest of the plan goes on."""


@dataclass(frozen=True)
class MeasureOptions:
    """How to measure a component, the same for every device of a plan. Times are seconds."""

    runs: int = setting(20, "timed runs", metavar="N")
    warmup: int = setting(3, "runs before them", metavar="N")
    threads: int | None = setting(None, "threads of the runtime (default: it chooses)", metavar="N", parse=int)
    timeout_s: float = setting(900.0, "longest run of a component, loading included, in s", metavar="S", flag="timeout")
    cooldown_s: float = setting(300.0, "phones: longest wait before a run, in s", metavar="S", flag="cooldown")
    max_celsius: float = setting(50.0, "Android: hottest CPU at which a run starts", metavar="C")
    cpus: str | None = setting(
        None, "Android: pin the runner to cores, by a hexadecimal mask (default: all)", metavar="big|MASK", parse=str
    )
    runner: Path | None = setting(
        None, "Android: the native runner, built for the device (default: none)", metavar="FILE", parse=Path
    )
    libraries: Sequence[Path] = setting((), "Android: a library to put beside the runner; repeatable", flag="library")
    app: bool = setting(False, "Android: measure with the installed demo app instead of a runner")
    ios_app: Path | None = setting(
        None, "iPhone: install this build of the demo app first (default: none)", metavar="FOLDER", parse=Path
    )
    ios_app_id: str | None = setting(
        None,
        "iPhone: the demo app's identifier (default: that of --ios-app, else org.lorarar.demo)",
        metavar="ID",
        parse=str,
    )
    keep: bool = setting(False, "phones: leave the files there, so that the next plan copies only what changed")

    def __post_init__(self) -> None:
        """Raise InputError for a number that can't be meant."""
        check_at_least(1, runs=self.runs, **({} if self.threads is None else {"threads": self.threads}))
        check_at_least(0, warmup=self.warmup)
        check_positive(900.0, timeout_s=self.timeout_s)
        if not 0 <= self.cooldown_s < math.inf:
            raise InputError(f"`cooldown_s` is {self.cooldown_s}; give seconds, 0 or more")
        if not math.isfinite(self.max_celsius):
            raise InputError(f"`max_celsius` is {self.max_celsius}; give a temperature in °C, such as 50")


class Description(NamedTuple):
    """One line of the list of devices. What a device doesn't tell is None."""

    name: str  # by which it is asked for, such as `adb:SERIAL`
    state: str  # "ready", or what has to be done first
    model: str | None = None
    soc: str | None = None
    abi: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Watch:
    """A running plan, as a device sees it: the device says what it is doing, and stops soon after `stop` is set."""

    say: Callable[[str], None] = lambda text: None
    stop: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> None:
        """Sleep. Raises DeviceFailed when the plan is interrupted."""
        self.stop.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise DeviceFailed when the plan is interrupted."""
        if self.stop.is_set():
            raise DeviceFailed("the plan was interrupted")


@runtime_checkable
class Device(Protocol):
    """One device. Its methods are called from one thread, beside those of other devices."""

    name: str  # by which it was asked for, such as `adb:SERIAL`

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        """Return one valid record. Raises DeviceFailed, which says in one sentence why there is none."""

    def close(self) -> None:
        """Stop and remove whatever was put on the device. Raises DeviceFailed when something is left there."""


@runtime_checkable
class DeviceKind(Protocol):
    """One kind of device, by the prefix of its names."""

    usage: str  # the names that its devices have

    @property
    def takes(self) -> Collection[str]:
        """The fields of MeasureOptions that mean something to it."""

    def describe(self) -> list[Description]:
        """Describe every connected device. Raises InputError when they can't be looked for."""

    def open(self, which: str, options: MeasureOptions) -> list[Device]:
        """Return the devices behind `prefix:which`; `which` is empty where only the prefix was given.

        A device that isn't connected fails when it is used. Raises InputError when there is none at all, or when the
        options are not right for it.
        """
