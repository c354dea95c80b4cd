"""The `xcrun devicectl` program, one thin layer; `phone` says why it is not a client library.

It comes with Xcode 15 and is what Apple documents for iPhones from iOS 17 on. Every command writes its result as JSON
to a file. The shapes and codes read here are those that devicectl 341 to 642 wrote in public captures: the tests of Qt
Creator (tst_devicectlutils.cpp), Flutter (core_devices_test.dart), sweetpad and swift-pwa; `properties`, in place of
the three older groups, since jsonVersion 5 (release notes of Xcode 27). The arguments are those of `devicectl help` and
of coremltools' remote device.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.devices.device import DeviceFailed, Watch
from benchmarks.devices.phone import ANSWER_S, APP, LIST, NO_SPACE, SLOWEST_COPY, no_answer
from benchmarks.processes import ProgramOutput, run_program
from lorarar.errors import InputError

NEEDS = "a Mac with Xcode 15 or later, and an iPhone with iOS 17 or later"

CORE, OPEN = "com.apple.dt.CoreDeviceError", "FBSOpenApplicationErrorDomain"
NOT_CONNECTED = f"it is not connected; plug it in and unlock it, or see  {LIST}"
UNTRUSTED = "it doesn't trust this Mac yet; unlock it and accept, or pair it in Xcode's Devices and Simulators"
DEVELOPER_MODE = "its Developer Mode is off; switch it on in Settings → Privacy & Security, and restart it"
LOCKED = "it is locked; unlock it, and set Settings → Display & Brightness → Auto-Lock to Never while measuring"
NOT_INSTALLED = (
    "the demo app is not installed on it; build it in Xcode, or give `ios_app` its folder; `ios_app_id` is for an "
    f"identifier other than {APP}"
)
FULL = "it is full; free some space on it"
# Of a chain of errors, whichever comes first here is what to tell; a locked phone, for one, also fails to mount.
CAUSES: Sequence[tuple[str, int, str]] = (
    ("NSPOSIXErrorDomain", 28, FULL),
    ("NSCocoaErrorDomain", 640, FULL),
    ("IXUserPresentableErrorDomain", 11, FULL),
    (CORE, 10003, LOCKED),
    (OPEN, 7, LOCKED),
    (CORE, 10005, DEVELOPER_MODE),
    (
        OPEN,
        3,
        "iOS doesn't trust the demo app's signature, or its profile has run out; trust the developer in Settings → "
        "General → VPN & Device Management, or build and install the app again",
    ),
    ("NSOSStatusErrorDomain", -10814, NOT_INSTALLED),
    (
        CORE,
        12040,
        "Xcode can't prepare it for development; unlock it and open Xcode's Devices and Simulators until it is ready, "
        "or install an Xcode that knows its iOS",
    ),
    (CORE, 1000, NOT_CONNECTED),
    (CORE, 1011, NOT_CONNECTED),
    (CORE, 4000, NOT_CONNECTED),
    ("com.apple.CoreDevice.ControlChannelConnectionError", 1, NOT_CONNECTED),
)
# Where devicectl ends before it writes a file, there are only its words.
WORDS = (
    (NO_SPACE, FULL),
    (re.compile(r"\blocked\b|could not be, unlocked", re.IGNORECASE), LOCKED),
)
NO_FILE = "Failed to retrieve the file node"  # of `copy from`, code 7000, which other failures have too


class Fault(NamedTuple):
    """One link of a chain of errors, and its sentence where it has one."""

    domain: str
    code: int
    sentence: str


@dataclass(frozen=True)
class DevicectlOutput(ProgramOutput):
    """What devicectl gave: its exit code, its streams, and the JSON that it wrote, empty where it wrote none."""

    document: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """`success`, `failed` or `timeout`; empty where it didn't get so far."""
        return str(at(self.document, "info", "outcome") or "")

    @property
    def well(self) -> bool:
        return self.code == 0 and self.outcome == "success"

    @property
    def result(self) -> Mapping[str, Any]:
        found = self.document.get("result")
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def faults(self) -> list[Fault]:
        """The chain of errors, outermost first."""
        found: list[Fault] = []
        error = self.document.get("error")
        while isinstance(error, Mapping) and len(found) < 16:
            reasons = (at(error, "userInfo", key, "string") for key in ("NSLocalizedFailureReason", DESCRIPTION))
            sentence = next((str(reason) for reason in reasons if reason), "")
            code = error.get("code")
            found.append(Fault(str(error.get("domain")), code if isinstance(code, int) else 0, sentence))
            error = at(error, "userInfo", "NSUnderlyingError", "error")
        return found

    @property
    def last_words(self) -> str:
        """The innermost sentence, which is the closest to the cause; else the last line that it complained with."""
        sentences = [fault.sentence for fault in self.faults if fault.sentence]
        if not sentences and not self.err and not self.out and self.outcome == "timeout":
            return "it timed out"
        return " ".join((sentences[-1] if sentences else super().last_words).split()).rstrip(".")


DESCRIPTION = "NSLocalizedDescription"


def at(value: Any, *path: str) -> Any:
    """Return what lies at `path` in nested objects, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def cause(answer: DevicectlOutput) -> str | None:
    """Return the sentence of a failure that has its own advice, or None."""
    chain = {(fault.domain, fault.code) for fault in answer.faults}
    for domain, code, sentence in CAUSES:
        if (domain, code) in chain:
            return sentence
    words = " ".join([answer.err, *(fault.sentence for fault in answer.faults)])
    return next((sentence for pattern, sentence in WORDS if pattern.search(words)), None)


class Devicectl:
    """The devicectl program of the chosen Xcode; tests replay one."""

    def available(self) -> bool:
        """Return whether there is a devicectl: not off a Mac, nor in its command-line tools alone."""
        xcrun = shutil.which("xcrun")
        with suppress(TimeoutError):
            return xcrun is not None and run_program([xcrun, "--find", "devicectl"], ANSWER_S).code == 0
        return False

    def run(self, verb: Sequence[str], args: Sequence[str], timeout_s: float, stop: threading.Event) -> DevicectlOutput:
        """Run `xcrun devicectl VERB… ARGS…`; it is ended soon after `stop` is set.

        Raises TimeoutError after `timeout_s` seconds, InputError where there is no Xcode.
        """
        xcrun = shutil.which("xcrun")
        if xcrun is None:
            raise InputError(f"there is no xcrun: measuring an iPhone needs {NEEDS}")
        with tempfile.TemporaryDirectory(prefix="lorarar-") as folder:
            written = Path(folder) / "answer.json"
            # Before the arguments, which may be an app's own.
            command = [xcrun, "devicectl", *verb, "--json-output", str(written), *args]
            # An app that devicectl started on the phone ends with it.
            done = run_program(command, timeout_s, stop)
            return DevicectlOutput(done.code, done.out, done.err, _read(written))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, Mapping) else {}


class DevicectlLink:
    """One phone, through devicectl. Every method raises DeviceFailed when it can't be reached."""

    def __init__(self, tool: Devicectl, name: str, app: str = APP) -> None:
        self.tool, self.name, self.app = tool, name, app

    def ask(
        self, *verb: str, args: Sequence[str] = (), timeout_s: float = ANSWER_S, stop: threading.Event | None = None
    ) -> DevicectlOutput:
        """Run a command for this phone and return what it gave, well or not."""
        try:
            return self.tool.run(verb, ["--device", self.name, *args], timeout_s, stop or threading.Event())
        except TimeoutError:
            raise no_answer(timeout_s) from None
        except InputError as error:
            raise DeviceFailed(str(error)) from None

    def need(
        self, what: str, *verb: str, args: Sequence[str] = (), timeout_s: float = ANSWER_S, watch: Watch | None = None
    ) -> Mapping[str, Any]:
        """Return the result of a command that must go well. Raises DeviceFailed, which says that `what`, and why."""
        answer = self.ask(*verb, args=args, timeout_s=timeout_s, stop=watch.stop if watch else None)
        if watch:
            watch.check()  # one that was interrupted has not gone well
        if not answer.well:
            raise DeviceFailed(cause(answer) or f"{what} ({answer.last_words}); try again, or see  {LIST}")
        return answer.result

    def send(self, local: Path, remote: str, watch: Watch) -> None:
        """Copy a file into the app's container; devicectl skips one that has not changed."""
        wait = ANSWER_S + local.stat().st_size / SLOWEST_COPY
        args = ["--source", str(local), "--destination", remote, *self._container()]
        self.need(f"{local.name} can't be copied to it", "device", "copy", "to", args=args, timeout_s=wait, watch=watch)

    def fetch(self, remote: str) -> bytes | None:
        """Return a file of the app's container, or None where there is none."""
        with tempfile.TemporaryDirectory(prefix="lorarar-") as folder:
            local = Path(folder) / "file"
            answer = self.ask(
                *("device", "copy", "from"), args=["--source", remote, "--destination", str(local), *self._container()]
            )
            if answer.well and local.is_file():
                return local.read_bytes()
        if answer.well or any(NO_FILE in fault.sentence for fault in answer.faults):
            return None
        raise DeviceFailed(cause(answer) or f"{remote} can't be copied from it ({answer.last_words}); measure again")

    def _container(self) -> Sequence[str]:
        """Return the app's container as a place; the files are then its own, which it can remove."""
        return ("--user", "mobile", "--domain-type", "appDataContainer", "--domain-identifier", self.app)
