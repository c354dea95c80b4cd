"""Run one component on an Android device: by the native runner in `adb shell`, or by the demo app's activity.

Both give the record's text, and the largest PSS that was seen while they ran. Whatever was started is stopped, also
when it hangs, the plan is interrupted, or the device is in trouble.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, NoReturn

from benchmarks.devices.adb_facts import parse_pss
from benchmarks.devices.adb_link import HOME, AdbLink
from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.phone import ANSWER_S, APP, NO_SPACE, not_finished, signal_name, wait_until
from benchmarks.processes import ProgramOutput

SAMPLE_S = 1.0  # between looks at the memory, each of which walks the process's page tables
PROGRAMS = f"{HOME}/bin"
RUNNER = f"{PROGRAMS}/lorarar-runner"
PID = f"{HOME}/run.pid"
RESULT = "files/benchmark.json"
EXIT_NO_RESULT, EXIT_INPUT, EXIT_RUNTIME = 1, 2, 3  # the runner's own
NOT_A_PROGRAM, KILLED = (126, 127), 128 + signal.SIGKILL  # the shell's


class Ran(NamedTuple):
    """What a run left: the record as text, and the largest PSS in bytes, where one was seen."""

    text: str
    pss_bytes: int | None


def run_native(
    link: AdbLink, bundle: str, component: str, target: str, mask: str | None, options: MeasureOptions, watch: Watch
) -> Ran:
    """Run the native runner, which lies in PROGRAMS beside its libraries.

    Raises DeviceFailed unless it gave a record.
    """
    library = next((path.name for path in options.libraries if path.name.startswith("libonnxruntime.so")), None)
    # A runtime counts the phone's cores, and not those that it may run on.
    threads = options.threads or (mask and int(mask, 16).bit_count())
    # exec keeps the process: the number written is the runner's own, under which it is looked at and stopped.
    command = f"echo $$ > {PID} && exec env LD_LIBRARY_PATH={PROGRAMS} " + shlex.join(
        [
            *(["taskset", mask] if mask else []),
            *(RUNNER, bundle, "--component", component, "--runs", str(options.runs), "--warmup", str(options.warmup)),
            *(["--threads", str(threads)] if threads else []),
            *(["--library", f"{PROGRAMS}/{library}"] if target in ("onnx", "qnn") and library else []),
        ]
    )
    memory = f"p=$(cat {PID}) && dumpsys meminfo $p"  # without a process, dumpsys would go through all of them
    with ThreadPoolExecutor(1) as pool:
        # The watch below stops it in time; this limit is only for a device that doesn't answer any more.
        running = pool.submit(link.shell, command, options.timeout_s + 2 * ANSWER_S)
        try:
            pss = _watch(link, running.done, memory, options.timeout_s, watch)
        finally:
            stop_native(link)
    answer = running.result()
    if answer.code != 0:
        _explain(answer)
    return Ran(answer.out, pss)


def stop_native(link: AdbLink) -> None:
    """End the runner, if it still runs. A number that the device has given to another process is left alone."""
    # Its children too: as long as one holds the streams, `adb shell` doesn't return.
    kill = 'kill -9 "$p" $(pgrep -P "$p")'
    with suppress(DeviceFailed):  # out of reach: the failure that is already under way says so
        link.shell(f'p=$(cat {PID} 2>/dev/null) && grep -q {HOME}/ "/proc/$p/cmdline" && {kill}; rm -f {PID}')


def _watch(link: AdbLink, done: Callable[[], bool], memory: str, timeout_s: float, watch: Watch) -> int | None:
    """Wait until it is done, and return the largest PSS that the command `memory` gave until then.

    Raises DeviceFailed when it takes too long or the plan is interrupted.
    """
    seen: list[int | None] = []

    def over() -> bool:
        if done():
            return True
        seen.append(parse_pss(link.shell(memory).out))
        return False

    if not wait_until(over, timeout_s, watch, lambda: SAMPLE_S):
        raise not_finished(timeout_s)
    return max(filter(None, seen), default=None)


def _explain(answer: ProgramOutput) -> NoReturn:
    """Raise DeviceFailed with one sentence for a runner that gave no record."""
    said, code = answer.last_words, answer.code
    if NO_SPACE.search(answer.err):
        raise DeviceFailed(f"it is full ({said}); free some space on it")
    reasons = {
        EXIT_NO_RESULT: f"its output is not PyTorch's: {said}",
        EXIT_INPUT: f"the runner refused its input: {said}",
        EXIT_RUNTIME: f"the runtime failed: {said}",
        **dict.fromkeys(NOT_A_PROGRAM, f"the runner can't be started ({said}); build it for this device's ABI"),
        KILLED: "the system killed the runner (signal 9), most often for want of memory; close other apps",
    }
    if code > 128 and code not in reasons:
        raise DeviceFailed(f"the runner crashed ({signal_name(code - 128)}); adb logcat has the stack")
    raise DeviceFailed(reasons.get(code, f"the runner ended with exit code {code}: {said}"))


def run_app(link: AdbLink, bundle: str, component: str, options: MeasureOptions, watch: Watch) -> Ran:
    """Run the demo app's benchmark activity; the app must be installed as a debuggable build."""
    shell = link.shell
    removed = shell(f"run-as {APP} rm -f {RESULT}")
    if removed.code != 0:
        raise DeviceFailed(f"{APP} can't be used ({removed.last_words}); install its debug build, or give a `runner`")
    extras = f"--es bundle {bundle} --es component {component} --ei runs {options.runs} --ei warmup {options.warmup}"
    if options.threads:
        extras += f" --ei threads {options.threads}"
    started = shell(f"am start -W -S -n {APP}/.BenchmarkActivity {extras}")
    complaint = re.search(r"^(?:Error|Exception).*", started.out + started.err, re.MULTILINE)
    if started.code != 0 or complaint:  # am tells of most of its errors with exit code 0
        raise DeviceFailed(f"{APP} can't be started ({complaint[0] if complaint else started.last_words})")
    text = ""

    def finished() -> bool:
        nonlocal text
        # In this order: an app that ends after its result is written has still given it.
        alive = shell(f"pidof {APP}").code == 0
        answer = shell(f"run-as {APP} cat {RESULT}")
        if answer.code == 0 and answer.out.rstrip().endswith("}"):  # else it is still being written
            text = answer.out
            return True
        if not alive:
            raise DeviceFailed(f"{APP} stopped without a result; adb logcat tells why")
        return False

    try:
        pss = _watch(link, finished, f"dumpsys meminfo {APP}", options.timeout_s, watch)
    finally:
        with suppress(DeviceFailed):  # out of reach: the failure that is already under way says so
            shell(f"am force-stop {APP}; run-as {APP} rm -f {RESULT}")
    return Ran(text, pss)
