"""What a device that a benchmark can run on does, and how it is told what to do. No toolchain is imported here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from runtime_py.bundle import Bundle


class DeviceFailed(Exception):
    """Why a device gave no record of a component: one plain sentence. The rest of the plan goes on."""


@dataclass(frozen=True)
class Options:
    """How to measure; the same for every device of a plan. Times are seconds."""

    runs: int = 20
    warmup: int = 3
    threads: int | None = None  # None: the runtime chooses
    timeout_s: float = 900.0  # of one component's run, loading included
    cooldown_s: float = 300.0  # the longest wait before a run
    max_celsius: float = 50.0  # of the hottest CPU zone, before a run
    cpus: str | None = None  # "big", or a hexadecimal mask
    runner: Path | None = None
    libraries: tuple[Path, ...] = ()
    app: bool = False
    ios_app: Path | None = None  # a build of the demo app to install first
    keep: bool = False


@dataclass(frozen=True)
class Description:
    """One line of `--list`. What a device doesn't tell is None."""

    name: str  # as --device takes it
    state: str  # "ready", or what has to be done first
    model: str | None = None
    soc: str | None = None
    abi: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Watch:
    """A running plan, as a device sees it: it says what it is doing, and stops soon after `stop` is set."""

    say: Callable[[str], None] = lambda text: None
    stop: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float) -> None:
        """Sleep. DeviceFailed when the plan was interrupted."""
        if self.stop.wait(seconds):
            raise DeviceFailed("the plan was interrupted")


@runtime_checkable
class Device(Protocol):
    """One device. Its methods are called from one thread, beside those of other devices."""

    @property
    def name(self) -> str:
        """As --device takes it."""

    def measure(self, bundle: Bundle, component: str, options: Options, watch: Watch) -> dict[str, Any]:
        """One valid record. DeviceFailed says in one sentence why there is none."""

    def close(self) -> None:
        """Stop and remove whatever was put on the device. DeviceFailed when something is left there."""


@runtime_checkable
class Kind(Protocol):
    """One kind of device, by the prefix of its names."""

    @property
    def usage(self) -> str:
        """The names that --device takes."""

    def describe(self) -> list[Description]:
        """Every connected device. InputError when they can't be looked for."""

    def open(self, which: str, options: Options) -> list[Device]:
        """The devices behind `prefix:which`; `which` is empty where only the prefix was given.

        A device that isn't connected fails when it is used. InputError when there is none at all, or when the options
        are not right for it.
        """
