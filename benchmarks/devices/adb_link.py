"""The `adb` program, one thin layer; `phone` says why it is not a client library."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmarks.devices.device import DeviceFailed
from benchmarks.devices.phone import ANSWER_S, LIST, NO_SPACE, SLOWEST_COPY, no_answer
from benchmarks.processes import ProgramOutput, run_program
from lorarar.errors import InputError

READY = "device"
MISSING = "missing"

STATES = {
    MISSING: f"it is not connected; plug it in, or see  {LIST}",
    "offline": "adb calls it offline; unplug it and plug it in again, or restart it",
    "unauthorized": "it doesn't trust this computer yet; unlock it and accept the question about USB debugging",
    "authorizing": "it is being asked to trust this computer; unlock it and accept",
    "connecting": "it is still connecting; try again in a moment",
    "no permissions": "this user may not open its USB port; install Android's udev rules, then plug it in again",
    "recovery": "it is in recovery mode; restart it into Android",
    "rescue": "it is in rescue mode; restart it into Android",
    "sideload": "it is in sideload mode; restart it into Android",
    "bootloader": "it is in its bootloader; restart it into Android",
}


@runtime_checkable
class AdbTool(Protocol):
    """What runs adb: the program itself, or a replay of it in tests."""

    def run(self, args: Sequence[str], timeout_s: float) -> ProgramOutput:
        """Run `adb ARGS…`. Raises TimeoutError after `timeout_s` seconds."""


class Adb:
    """The adb program in PATH."""

    def run(self, args: Sequence[str], timeout_s: float) -> ProgramOutput:
        """Run `adb ARGS…`. Raises TimeoutError after `timeout_s` seconds, InputError where there is no adb."""
        program = shutil.which("adb")
        if program is None:
            raise InputError("adb is not installed: install Android's platform-tools and put adb in PATH")
        return run_program([program, *args], timeout_s)


def connected(adb: AdbTool) -> dict[str, str]:
    """Return every device's state by its serial, in adb's order and words. Raises InputError when adb can't tell."""
    try:
        answer = adb.run(["devices", "-l"], ANSWER_S)
    except TimeoutError:
        raise InputError(f"adb gave no answer for {ANSWER_S:.0f} s; try  adb kill-server") from None
    if answer.code != 0:
        raise InputError(f"adb can't list devices ({answer.last_words}); try  adb kill-server")
    return parse_devices(answer.out)


def parse_devices(text: str) -> dict[str, str]:
    """Read `adb devices -l`: a serial and its state a line, after what the starting server says of itself."""
    _, found, lines = text.partition("List of devices attached")
    states = {}
    for line in lines.splitlines() if found else ():
        serial, _, rest = line.strip().replace("\t", " ").partition(" ")
        if rest:
            rest = rest.strip()
            states[serial] = "no permissions" if rest.startswith("no permissions") else rest.split()[0]
    return states


def advice(state: str) -> str:
    """Say what a state that is not `device` means, and what to do."""
    return STATES.get(state, f"adb calls it {state}; restart it into Android")


class AdbLink:
    """One device, through adb. Every method raises DeviceFailed when it can't be reached."""

    def __init__(self, adb: AdbTool, serial: str) -> None:
        self.adb, self.serial = adb, serial

    def check(self) -> None:
        """Raise DeviceFailed unless the device is there and trusts this computer."""
        try:
            state = connected(self.adb).get(self.serial, MISSING)
        except InputError as error:
            raise DeviceFailed(str(error)) from None
        if state != READY:
            raise DeviceFailed(advice(state))

    def shell(self, command: str, timeout_s: float = ANSWER_S) -> ProgramOutput:
        """Run a command line in the device's shell; the exit code is the command's own."""
        answer = self._run(["shell", command], timeout_s)
        if answer.code != 0:
            self.check()  # adb answers for a lost device with exit codes that a command could have given
        return answer

    def push(self, local: Path, remote: str) -> None:
        """Copy one file. Raises DeviceFailed when it doesn't arrive."""
        answer = self._run(["push", str(local), remote], ANSWER_S + local.stat().st_size / SLOWEST_COPY)
        if answer.code != 0:
            self.check()
            words = answer.err + answer.out
            if NO_SPACE.search(words):
                raise DeviceFailed(f"it is full: {local.name} doesn't fit; free some space on it")
            raise DeviceFailed(f"{local.name} can't be copied to it ({answer.last_words})")

    def _run(self, args: Sequence[str], timeout_s: float) -> ProgramOutput:
        try:
            return self.adb.run(["-s", self.serial, *args], timeout_s)
        except TimeoutError:
            self.check()
            raise no_answer(timeout_s) from None
