"""The `adb` program and the files on a device, one thin layer; `phone` says why it is not a client library."""

from __future__ import annotations

import re
import shlex
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from benchmarks.devices.device import DeviceFailed, Watch
from benchmarks.devices.phone import ANSWER_S, LIST, NO_SPACE, SLOWEST_COPY, no_answer
from benchmarks.processes import ProgramOutput, run_program
from lorarar.errors import InputError
from runtime_py.hashes import file_sha256

HOME = "/data/local/tmp/lorarar"
"""Where the shell user may write and run programs, and every app may read."""
SLOWEST_HASH = 20e6  # bytes a second, of an old phone's flash and little cores
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


class Adb:
    """The adb program in PATH; tests replay one."""

    def run(self, args: Sequence[str], timeout_s: float, stop: threading.Event | None = None) -> ProgramOutput:
        """Run `adb ARGS…`, at most until `stop` is set.

        Raises TimeoutError after `timeout_s` seconds, InputError where there is no adb.
        """
        program = shutil.which("adb")
        if program is None:
            raise InputError("adb is not installed: install Android's platform-tools and put adb in PATH")
        return run_program([program, *args], timeout_s, stop)


def connected(adb: Adb) -> dict[str, str]:
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

    def __init__(self, adb: Adb, serial: str) -> None:
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

    def push(self, local: Path, remote: str, watch: Watch) -> None:
        """Copy one file. Raises DeviceFailed when it doesn't arrive, or when the plan is interrupted."""
        answer = self._run(["push", str(local), remote], ANSWER_S + local.stat().st_size / SLOWEST_COPY, watch.stop)
        watch.check()
        if answer.code != 0:
            self.check()
            words = answer.err + answer.out
            if NO_SPACE.search(words):
                raise DeviceFailed(f"it is full: {local.name} doesn't fit; free some space on it")
            raise DeviceFailed(f"{local.name} can't be copied to it ({answer.last_words})")

    def copy(self, files: Mapping[str, Path], folder: str, watch: Watch) -> None:
        """Make `folder` on the device hold these files; only what changed is copied, and other files stay.

        Raises DeviceFailed when they don't fit or don't arrive, or when the plan is interrupted.
        """
        total = sum(path.stat().st_size for path in files.values())
        have = self._hashes(folder, list(files), ANSWER_S + total / SLOWEST_HASH)
        changed = {name: path for name, path in files.items() if have.get(name) != file_sha256(path)}
        if not changed:
            return
        folders = sorted({str(PurePosixPath(folder, name).parent) for name in changed})
        made = self.shell(f"mkdir -p {shlex.join(folders)}")
        if made.code != 0:
            raise DeviceFailed(f"{folder} can't be made on it ({made.last_words})")
        needed = sum(path.stat().st_size for path in changed.values())
        free = free_bytes(self.shell(f"df -k {folder}").out)
        if free is not None and free < needed:
            raise DeviceFailed(
                f"it is full: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; free some space on it"
            )
        for name, path in changed.items():
            self.push(path, f"{folder}/{name}", watch)

    def _hashes(self, folder: str, names: list[str], timeout_s: float) -> dict[str, str]:
        """Return the SHA-256 of each of the files that is there."""
        answer = self.shell(f"cd {folder} 2>/dev/null && sha256sum {shlex.join(names)} 2>/dev/null", timeout_s)
        lines = re.findall(r"^([0-9a-f]{64}) [ *](.+?)\r?$", answer.out, re.MULTILINE)
        return {name: digest for digest, name in lines}

    def _run(self, args: Sequence[str], timeout_s: float, stop: threading.Event | None = None) -> ProgramOutput:
        try:
            return self.adb.run(["-s", self.serial, *args], timeout_s, stop)
        except TimeoutError:
            self.check()
            raise no_answer(timeout_s) from None


def free_bytes(text: str) -> int | None:
    """Read the free space from `df -k FOLDER`: its fourth column, which is in kB."""
    found = re.search(r"\s\d+\s+\d+\s+(\d+)\s+\d+%", text)
    return int(found[1]) * 1024 if found else None
