"""The demo app's benchmark on an iPhone: install, copy, launch, fetch its record, stop, clean up.

What the app does when it is launched with these arguments; a lone `--` among them, which Xcode 15.0 passes on, is
ignored:

    --benchmark --bundle NAME --component C --runs N --warmup N --cooldown S [--threads N] --record-nonce NONCE
        measure Documents/benchmark/NAME as the record's schema says, after waiting at most S seconds until iOS calls
        its thermal state nominal or fair; write the record, or {"error": SENTENCE}, to
        Documents/benchmark/record-NONCE.json by renaming a finished file, and end
    --benchmark-clean
        remove Documents/benchmark, and end

The screen stays on meanwhile, since iOS slows down and ends apps that it doesn't show.
"""

from __future__ import annotations

import re
import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmarks.devices.device import DeviceFailed, Options, Watch
from benchmarks.devices.ios_link import (
    ANSWER_S,
    APP,
    NOT_INSTALLED,
    POLL_S,
    SLOWEST_COPY,
    Answer,
    Link,
    at,
    cause,
)
from benchmarks.devices.remote import sha256

HOME = "Documents/benchmark"
LOOK_S = 2.0  # between looks at an app that devicectl lost sight of
LAUNCH = ("device", "process", "launch")
ENDED_BY = re.compile(r"App terminated due to signal (\d+)")  # devicectl's word for it, after the app's own output


class App:
    """The demo app on one phone, as it is found or put there."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.folder: str | None = None  # of the installed app, a file:// URL
        self.ours = False  # installed by this plan where there was none
        self.sent: dict[str, str] = {}  # SHA-256 of what this plan copied, by place

    def prepare(self, build: Path | None, watch: Watch) -> None:
        """Find the app, installing `build` first, once. DeviceFailed where there is none."""
        if self.folder is not None:
            return
        found = self._find()
        if build is not None:
            watch.say("installing the demo app")
            size = sum(path.stat().st_size for path in build.rglob("*") if path.is_file())
            wait = 2 * ANSWER_S + size / SLOWEST_COPY
            what = "the demo app can't be installed"
            self.link.need(what, "device", "install", "app", args=[str(build)], timeout=wait)
            self.ours = found is None
            found = self._find()
        if found is None:
            raise DeviceFailed(NOT_INSTALLED)
        self.folder = found
        if build is not None:
            self._launch_to_clean()  # its first launch makes its container; a plan that was killed left its files

    def _find(self) -> str | None:
        args = ["--bundle-id", APP]
        apps = self.link.need("its apps can't be listed", "device", "info", "apps", args=args).get("apps")
        found = [at(app, "url") for app in apps if at(app, "bundleIdentifier") == APP] if isinstance(apps, list) else []
        return next((str(url) for url in found if url), None)

    def copy(self, files: Mapping[str, Path], name: str) -> None:
        """Make Documents/benchmark/NAME hold these files. DeviceFailed when they don't fit or don't arrive."""
        for relative, path in files.items():
            place, digest = f"{HOME}/{name}/{relative}", sha256(path)
            if self.sent.get(place) != digest:
                self.sent[place] = ""  # half a file is removed as well
                self.link.send(path, place)
                self.sent[place] = digest

    def measure(self, bundle: str, component: str, options: Options, watch: Watch) -> bytes:
        """The record as it was written. DeviceFailed says why there is none."""
        nonce = secrets.token_hex(8)
        arguments = ["--benchmark", "--bundle", bundle, "--component", component, "--runs", str(options.runs)]
        arguments += ["--warmup", str(options.warmup), "--cooldown", f"{options.cooldown_s:g}"]
        arguments += ["--threads", str(options.threads)] if options.threads else []
        limit = options.timeout_s + options.cooldown_s
        ended, answer = self._launch([*arguments, "--record-nonce", nonce], limit, watch)
        # An app that hangs after its record has still given it.
        written = self.link.fetch(f"{HOME}/record-{nonce}.json")
        if written is not None:
            return written
        if not ended:
            raise DeviceFailed(
                f"it didn't finish within {limit:.0f} s and was stopped; allow more with --timeout, or measure "
                "fewer --runs"
            )
        raise _reason(answer)

    def _launch(self, arguments: list[str], limit: float, watch: Watch) -> tuple[bool, Answer]:
        """Launch it and wait for its end: whether it came in time, and what devicectl said."""
        stop = threading.Event()
        args = ["--console", "--terminate-existing", APP, "--", *arguments]
        with ThreadPoolExecutor(1) as pool:
            # The watch below ends it in time; this limit is only for a devicectl that doesn't end either.
            running = pool.submit(self.link.ask, *LAUNCH, args=args, timeout=limit + 2 * ANSWER_S, stop=stop)

            def over() -> bool:
                # With a bad connection, devicectl may end before the app does.
                return running.done() and not self._processes()

            try:
                ended = _wait(over, limit, watch, lambda: LOOK_S if running.done() else POLL_S)
            finally:
                stop.set()
                self.stop()
        return ended, running.result()

    def _launch_to_clean(self) -> None:
        """Remove the folder. devicectl can't: it replaces a folder's content, and was seen to empty the container."""
        ended, answer = self._launch(["--benchmark-clean"], ANSWER_S, Watch())
        if not ended:
            raise DeviceFailed("the demo app doesn't end after --benchmark-clean; install its build of this version")
        if answer.faults:
            raise _reason(answer)

    def _processes(self) -> list[int]:
        """The numbers of its processes."""
        running = self.link.need("its processes can't be listed", "device", "info", "processes").get("runningProcesses")
        own = _path(self.folder) + "/"
        found = running if isinstance(running, list) else []
        numbers = [at(each, "processIdentifier") for each in found if _path(at(each, "executable")).startswith(own)]
        return [number for number in numbers if isinstance(number, int)]

    def stop(self) -> None:
        """End it, if it still runs."""
        with suppress(DeviceFailed):  # out of reach: the failure that is already under way says so
            for number in self._processes():
                self.link.ask("device", "process", "terminate", args=["--pid", str(number), "--kill"])

    def clean(self) -> None:
        """Remove what this plan put there. DeviceFailed when something is left."""
        try:
            if self.ours:
                self.link.need(f"{APP} can't be uninstalled", "device", "uninstall", "app", args=[APP])
            elif self.sent:
                self._launch_to_clean()
                if self.link.fetch(next(iter(self.sent))) is not None:
                    raise DeviceFailed(f"the demo app didn't remove it; delete {APP} from the phone")
        except DeviceFailed as error:
            raise DeviceFailed(f"{'the demo app' if self.ours else HOME} is still there: {error}") from None
        self.ours, self.folder, self.sent = False, None, {}


def _path(url: object) -> str:
    """Of a file:// URL, the same in both of its spellings: /private/var and /var are one folder."""
    path = "/" + str(url).removeprefix("file:").strip("/")
    return path.removeprefix("/private")


def _wait(over: Callable[[], bool], limit: float, watch: Watch, pause: Callable[[], float]) -> bool:
    """Ask until it is over: whether that was within the limit. DeviceFailed when the plan is interrupted."""
    end = time.monotonic() + limit
    while not over():
        if time.monotonic() > end:
            return False
        watch.wait(min(pause(), limit))
    return True


def _reason(answer: Answer) -> DeviceFailed:
    """One sentence for an app that left no record."""
    ended = ENDED_BY.search(answer.out + answer.err)
    if ended and int(ended[1]) == signal.SIGKILL:
        return DeviceFailed(
            "iOS killed the demo app (signal 9), most often for want of memory; close other apps, or measure a smaller "
            "bundle"
        )
    if ended:
        return DeviceFailed(
            f"the demo app crashed ({_signal_name(int(ended[1]))}); Xcode's Devices and Simulators has its crash log"
        )
    if answer.faults:
        return DeviceFailed(cause(answer) or f"{APP} can't be launched ({answer.last_words}); launch it by hand once")
    return DeviceFailed(
        f"the demo app ended without a record ({answer.last_words}); install its build of this version of the project"
    )


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
