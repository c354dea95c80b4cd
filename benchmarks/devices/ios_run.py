"""Run the demo app's benchmark on an iPhone: install, copy, launch, fetch its record, stop, clean up.

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
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.ios_link import NOT_INSTALLED, DevicectlLink, DevicectlOutput, at, cause
from benchmarks.devices.phone import ANSWER_S, SLOWEST_COPY, not_finished, signal_name, wait_until
from runtime_py.hashes import file_sha256

HOME = "Documents/benchmark"
POLL_S = 0.2  # between looks at devicectl
LOOK_S = 2.0  # between looks at an app that devicectl lost sight of
LAUNCH = ("device", "process", "launch")
ENDED_BY = re.compile(r"App terminated due to signal (\d+)")  # devicectl's word for it, after the app's own output


class App:
    """The demo app on one phone, as it is found or put there."""

    def __init__(self, link: DevicectlLink) -> None:
        self.link = link
        self.folder: str | None = None  # of the installed app, a file:// URL
        self.ours = False  # installed by this plan where there was none
        self.sent: dict[str, str] = {}  # SHA-256 of what this plan copied, by place

    def prepare(self, build: Path | None, watch: Watch) -> None:
        """Find the app, installing `build` first, once. Raises DeviceFailed where there is none."""
        if self.folder is not None:
            return
        found = self._find()
        if build is not None:
            watch.say("installing the demo app")
            size = sum(path.stat().st_size for path in build.rglob("*") if path.is_file())
            wait = 2 * ANSWER_S + size / SLOWEST_COPY
            what = "the demo app can't be installed"
            self.ours = self.ours or found is None  # before it: one that is not answered in time may be installed
            self.link.need(what, "device", "install", "app", args=[str(build)], timeout_s=wait)
            found = self._find()
        if found is None:
            raise DeviceFailed(NOT_INSTALLED)
        self.folder = found
        if build is not None:
            self._launch_to_clean()  # its first launch makes its container; a plan that was killed left its files

    def _find(self) -> str | None:
        args = ["--bundle-id", self.link.app]
        apps = self.link.need("its apps can't be listed", "device", "info", "apps", args=args).get("apps")
        ours = [app for app in apps if at(app, "bundleIdentifier") == self.link.app] if isinstance(apps, list) else []
        return next((str(at(app, "url")) for app in ours if at(app, "url")), None)

    def copy(self, files: Mapping[str, Path], name: str, watch: Watch) -> None:
        """Make Documents/benchmark/NAME hold these files.

        Raises DeviceFailed when they don't fit or don't arrive, or when the plan is interrupted.
        """
        for relative, path in files.items():
            place, digest = f"{HOME}/{name}/{relative}", file_sha256(path)
            if self.sent.get(place) != digest:
                self.sent[place] = ""  # half a file is removed as well
                self.link.send(path, place, watch)
                self.sent[place] = digest

    def measure(self, bundle: str, component: str, options: MeasureOptions, watch: Watch) -> bytes:
        """Return the record as it was written. Raises DeviceFailed, which says why there is none."""
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
            raise not_finished(limit)
        raise _reason(answer)

    def _launch(self, arguments: list[str], limit: float, watch: Watch) -> tuple[bool, DevicectlOutput]:
        """Launch the app and wait for its end; return whether that came in time, and what devicectl gave."""
        stop = threading.Event()
        args = ["--console", "--terminate-existing", self.link.app, "--", *arguments]
        with ThreadPoolExecutor(1) as pool:
            # The watch below ends it in time; this limit is only for a devicectl that doesn't end either.
            running = pool.submit(self.link.ask, *LAUNCH, args=args, timeout_s=limit + 2 * ANSWER_S, stop=stop)

            def over() -> bool:
                # With a bad connection, devicectl may end before the app does.
                return running.done() and not self._processes()

            try:
                ended = wait_until(over, limit, watch, lambda: LOOK_S if running.done() else POLL_S)
            finally:
                stop.set()
                self.stop()
        return ended, running.result()

    def _launch_to_clean(self) -> None:
        """Let the app remove its folder.

        devicectl can't: it replaces a folder's content, and was seen to empty the whole container.
        """
        ended, answer = self._launch(["--benchmark-clean"], ANSWER_S, Watch())
        if not ended:
            raise DeviceFailed("the demo app doesn't end after --benchmark-clean; install its build of this version")
        if answer.faults:
            raise _reason(answer)

    def _processes(self) -> list[int]:
        """Return the numbers of the app's processes."""
        running = self.link.need("its processes can't be listed", "device", "info", "processes").get("runningProcesses")
        own = _path(self.folder) + "/"
        found = running if isinstance(running, list) else []
        numbers = [at(each, "processIdentifier") for each in found if _path(at(each, "executable")).startswith(own)]
        return [number for number in numbers if isinstance(number, int)]

    def stop(self) -> None:
        """End the app, if it still runs."""
        with suppress(DeviceFailed):  # out of reach: the failure that is already under way says so
            for number in self._processes():
                self.link.ask("device", "process", "terminate", args=["--pid", str(number), "--kill"])

    def clean(self) -> None:
        """Remove what this plan put there. Raises DeviceFailed when something is left."""
        try:
            if self.ours and self._find() is not None:
                what = f"{self.link.app} can't be uninstalled"
                self.link.need(what, "device", "uninstall", "app", args=[self.link.app])
            elif self.sent and not self.ours:
                self._launch_to_clean()
                if self.link.fetch(next(iter(self.sent))) is not None:
                    raise DeviceFailed(f"the demo app didn't remove it; delete {self.link.app} from the phone")
        except DeviceFailed as error:
            raise DeviceFailed(f"{'the demo app' if self.ours else HOME} is still there: {error}") from None
        self.ours, self.folder, self.sent = False, None, {}


def _path(url: object) -> str:
    """Return the path of a file:// URL, the same for both spellings of a folder: /private/var and /var."""
    path = "/" + str(url).removeprefix("file:").strip("/")
    return path.removeprefix("/private")


def _reason(answer: DevicectlOutput) -> DeviceFailed:
    """Make the error for an app that left no record: one sentence with the cause."""
    ended = ENDED_BY.search(answer.out + answer.err)
    if ended and int(ended[1]) == signal.SIGKILL:
        return DeviceFailed(
            "iOS killed the demo app (signal 9), most often for want of memory; close other apps, or measure a smaller "
            "bundle"
        )
    if ended:
        return DeviceFailed(
            f"the demo app crashed ({signal_name(int(ended[1]))}); Xcode's Devices and Simulators has its crash log"
        )
    if answer.faults:
        return DeviceFailed(
            cause(answer) or f"the demo app can't be launched ({answer.last_words}); launch it by hand once"
        )
    return DeviceFailed(
        f"the demo app ended without a record ({answer.last_words}); install its build of this version of the project"
    )
