"""Run other programs, one of our own commands or the tool that reaches a phone, and tell the memory of this one."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorarar.errors import InputError
from runtime_py.processes import same_paths

POLL_S = 0.2
END_S = 60.0  # for a program to clear up after it was asked to end
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class ProgramOutput:
    """What a program gave: its exit code and its two streams."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def last_words(self) -> str:
        """The last line that it complained with, without the word `error`."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return re.sub(r"^(adb: )?error: ", "", lines[-1], flags=re.IGNORECASE) if lines else "it said nothing"


def run_program(
    command: Sequence[str],
    timeout_s: float,
    stop: threading.Event | None = None,
    end_s: float = END_S,
    environment: Mapping[str, str] | None = None,
) -> ProgramOutput:
    """Run a program to its end. When `stop` is set it is asked to end, and killed `end_s` seconds later.

    It has a session of its own: Ctrl-C must not end it, since whoever started it does so and clears up. Raises
    TimeoutError when it was killed, then or after `timeout_s` seconds.
    """
    end, asked = time.monotonic() + timeout_s, False
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    ) as process:
        try:
            while True:
                try:
                    streams = process.communicate(timeout=min(POLL_S, timeout_s))
                    return ProgramOutput(process.returncode, *(stream.decode(errors="replace") for stream in streams))
                except subprocess.TimeoutExpired:
                    if stop is not None and stop.is_set() and not asked:
                        process.terminate()
                        end, asked = min(end, time.monotonic() + end_s), True
                    if time.monotonic() > end:
                        raise TimeoutError(command[0]) from None
        except BaseException:
            process.kill()
            raise


def run_module(module: str, *arguments: str) -> None:
    """Run one of our commands in a process of its own. Raises InputError with its own sentence when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=same_paths())
    if done.returncode:
        said = ProgramOutput(done.returncode, "", done.stderr).last_words
        raise InputError(f"python -m {module} {' '.join(arguments[:2])} failed: {said}")


def peak_bytes() -> int:
    """Return the most bytes that this program ever had in memory.

    On Linux that is the kernel's VmHWM: `getrusage` counts a process from its fork, when it still was a copy of its
    parent, which may be larger. Elsewhere `getrusage` is all there is; macOS counts in bytes, others in KiB.
    """
    if _STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return 1024 * int(found[1])
    import resource  # Windows has none, and needs the rest of this module

    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
