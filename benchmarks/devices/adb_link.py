"""The `adb` program, one thin layer. Whoever owns an Android phone for development has it, it is what Android's
documents speak of, and its words and exit codes are all there is to know; a client library (adbutils) would bring a
second adb binary and its own sockets, and still leave these states and sentences to us.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from benchmarks.devices.device import DeviceFailed
from lorarar.errors import InputError

READY = "device"
MISSING = "missing"
LIST = "python -m benchmarks.device --list"
ANSWER_S = 60.0  # for a short command: a phone under load takes seconds for a dumpsys
SLOWEST_PUSH = 1e6  # bytes a second: Wi-Fi; USB 2 makes 20 times as many

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
FULL = re.compile(r"no space left|not enough space|disk quota", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What a command gave: its exit code and its two streams."""

    code: int
    out: str
    err: str = ""

    @property
    def last_words(self) -> str:
        """The last line that it complained with, without adb's or the runner's prefix."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return re.sub(r"^(adb: )?error: ", "", lines[-1]) if lines else "it said nothing"


@runtime_checkable
class Runs(Protocol):
    """What runs adb: the program itself, or a replay of it in tests."""

    def run(self, args: Sequence[str], timeout: float) -> Answer:
        """Run `adb ARGS…`. TimeoutError after `timeout` seconds."""


class Adb:
    """The program in PATH."""

    def run(self, args: Sequence[str], timeout: float) -> Answer:
        """Run `adb ARGS…`. TimeoutError after `timeout` seconds, InputError where there is no adb."""
        program = shutil.which("adb")
        if program is None:
            raise InputError("adb is not installed: install Android's platform-tools and put adb in PATH")
        try:
            done = subprocess.run(
                [program, *args],
                capture_output=True,
                check=False,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must not end it: the plan does, and cleans the device
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"adb {args[0]}") from None
        return Answer(done.returncode, *(stream.decode(errors="replace") for stream in (done.stdout, done.stderr)))


def connected(adb: Runs) -> dict[str, str]:
    """The state of every device, by serial, in adb's order and words. InputError when adb can't tell."""
    try:
        answer = adb.run(["devices", "-l"], ANSWER_S)
    except TimeoutError:
        raise InputError(f"adb gave no answer for {ANSWER_S:.0f} s; try  adb kill-server") from None
    if answer.code != 0:
        raise InputError(f"adb can't list devices ({answer.last_words}); try  adb kill-server")
    return parse_devices(answer.out)


def parse_devices(text: str) -> dict[str, str]:
    """`adb devices -l`: a serial and its state a line, after what the starting server says of itself."""
    _, found, lines = text.partition("List of devices attached")
    states = {}
    for line in lines.splitlines() if found else ():
        serial, _, rest = line.strip().replace("\t", " ").partition(" ")
        if rest:
            rest = rest.strip()
            states[serial] = "no permissions" if rest.startswith("no permissions") else rest.split()[0]
    return states


def advice(state: str) -> str:
    """What a state that is not `device` means, and what to do."""
    return STATES.get(state, f"adb calls it {state}; restart it into Android")


class Link:
    """One device, through adb. Every method raises DeviceFailed when it can't be reached."""

    def __init__(self, adb: Runs, serial: str) -> None:
        self.adb, self.serial = adb, serial

    def check(self) -> None:
        """DeviceFailed unless the device is there and trusts this computer."""
        try:
            state = connected(self.adb).get(self.serial, MISSING)
        except InputError as error:
            raise DeviceFailed(str(error)) from None
        if state != READY:
            raise DeviceFailed(advice(state))

    def shell(self, command: str, timeout: float = ANSWER_S) -> Answer:
        """Run a command line in the device's shell. Its exit code is the command's own."""
        answer = self._run(["shell", command], timeout)
        if answer.code != 0:
            self.check()  # adb answers for a lost device with exit codes that a command could have given
        return answer

    def push(self, local: Path, remote: str) -> None:
        """Copy one file. DeviceFailed when it doesn't arrive."""
        answer = self._run(["push", str(local), remote], ANSWER_S + local.stat().st_size / SLOWEST_PUSH)
        if answer.code != 0:
            self.check()
            words = answer.err + answer.out
            if FULL.search(words):
                raise DeviceFailed(f"it is full: {local.name} doesn't fit; free some space on it")
            raise DeviceFailed(f"{local.name} can't be copied to it ({answer.last_words})")

    def _run(self, args: Sequence[str], timeout: float) -> Answer:
        try:
            return self.adb.run(["-s", self.serial, *args], timeout)
        except TimeoutError:
            self.check()
            raise DeviceFailed(f"it gave no answer for {timeout:.0f} s; restart it, or use another cable") from None
