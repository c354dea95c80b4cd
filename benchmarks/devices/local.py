"""This computer, through the Python runtime, each component in a process of its own.

    python -m benchmarks.devices.local BUNDLE COMPONENT [--runs N] [--warmup N] [--threads N]

is that process: the last line of stdout is one record.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.devices.device import Description, Device, DeviceFailed, Options, Watch
from benchmarks.memory import peak_bytes
from benchmarks.record import bundle_head, check_record, paper_figure, runs
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import FailedCheck, InputError
from runtime_py.bundle import Bundle

NAME = "local"
POLL_S = 0.2
# The target's runtime as records name it, what runs the graph, and where.
RUNTIMES = {
    "onnx": ("onnxruntime", "CPUExecutionProvider", "cpu"),
    "executorch": ("executorch", "XNNPACK", "cpu"),
    "coreml": ("coreml", "Core ML", "all"),
}


class Local:
    """The kind of device that is always there."""

    usage = "local"

    def describe(self) -> list[Description]:
        facts = device()
        system = " ".join(part for part in (facts["os"], facts["os_version"]) if part)
        return [Description(NAME, "ready", facts["model"], facts["soc"], facts["abi"], system)]

    def open(self, which: str, options: Options) -> list[Device]:
        """InputError for options that are for a phone."""
        if which:
            raise InputError(f"--device local:{which}: there is one local device; give --device local")
        names = {"runner": "--runner", "libraries": "--library", "app": "--app", "cpus": "--cpus"}
        wrong = [option for name, option in names.items() if getattr(options, name)]
        if wrong:
            raise InputError(f"{wrong[0]} is for Android; leave it out with --device local")
        return [ThisComputer()]


class ThisComputer:
    """The computer that the command runs on."""

    name = NAME

    def measure(self, bundle: Bundle, component: str, options: Options, watch: Watch) -> dict[str, Any]:
        """One valid record. DeviceFailed says in one sentence why there is none."""
        watch.say(f"{component}: running")
        command = [sys.executable, "-m", "benchmarks.devices.local", str(bundle.path), component]
        command += ["--runs", str(options.runs), "--warmup", str(options.warmup)]
        command += ["--threads", str(options.threads)] if options.threads else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                said, errors = _finished(process, options.timeout_s, watch)
            finally:
                process.kill()
        if process.returncode:
            sentence = (errors.strip().splitlines() or [f"ended with code {process.returncode}"])[-1]
            raise DeviceFailed(sentence.removeprefix("error: "))
        return check_record(json.loads(said.splitlines()[-1]), f"the local record of {component}")

    def close(self) -> None:
        """Nothing was put anywhere."""


def _finished(process: subprocess.Popen[str], timeout_s: float, watch: Watch) -> tuple[str, str]:
    """stdout and stderr of the process when it has ended."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            return process.communicate(timeout=POLL_S)
        except subprocess.TimeoutExpired:
            watch.wait(0.0)
            if time.monotonic() > end:
                raise DeviceFailed(f"it took over {timeout_s:g} s and was stopped; give a longer --timeout") from None


def measure(bundle: Bundle, name: str, run_count: int, warmup: int, threads: int | None) -> dict[str, Any]:
    """The record of one component, measured in this process. Raises FailedCheck where parity fails, InputError for
    what can't be measured here.
    """
    from runtime_py.backends import Runner, load_backend, open_runner
    from runtime_py.golden import golden_inputs
    from runtime_py.parity import compare_golden

    target = bundle.manifest["target"]
    if target == "coreml" and platform.system() != "Darwin":
        raise InputError("a Core ML bundle is measured on Apple systems only; check it with  lorarar check")
    component = bundle.component(name)
    load_backend(target)
    started, before = time.gmtime(), condition()
    load: dict[str, float] = {}
    for key in ("cold_s", "warm_s"):
        session: Runner | None = None  # the first session is closed before the second is opened
        start = time.perf_counter()
        session = open_runner(bundle, name, threads)
        load[key] = time.perf_counter() - start
    assert session is not None
    inputs = golden_inputs(component)
    seconds = []
    for _ in range(warmup + run_count):
        start = time.perf_counter()
        outputs = session.run(inputs)
        seconds.append(time.perf_counter() - start)
    expected = component.golden_outputs()
    found = [compare_golden(key, expected[key], outputs[key]) for key in expected]
    bad = [difference for difference in found if not difference.within(component.tolerance)]
    if bad:
        raise FailedCheck(f"{name} differs from PyTorch in {bad[0].output} ({bad[0].psnr_db:.1f} dB); it is no result")
    psnr = min(difference.psnr_db for difference in found)
    runtime, backend, unit = RUNTIMES[target]
    return {
        **bundle_head(bundle, name, started),
        "kind": "measured",
        "runner": "python",
        "device": device(),
        "runtime": {
            "name": runtime,
            "version": session.version,
            "backend": backend,
            "compute_unit": unit,
            "threads": threads,
        },
        "load": load,
        "runs": runs(seconds[0], warmup, seconds[warmup:]),
        "memory": {"peak_bytes": peak_bytes(), "measure": "rss"},
        "conditions": {"before": before, "after": condition(), "cooldown_s": 0.0},
        "parity": {
            "status": "passed",
            "psnr_db": psnr if psnr != float("inf") else None,
            "max_error": max(difference.max_error for difference in found),
        },
        "estimate": None,
        "paper": paper_figure(bundle.manifest["base"], name),
        "notes": ["golden inputs are in memory; the session hands out new arrays"],
    }


def device() -> dict[str, Any]:
    """This computer in the record's words; None for what it doesn't tell."""
    import psutil

    name = {"Darwin": "macos", "Windows": "windows"}.get(platform.system(), "linux")
    cpu = _cpu()
    return {
        "model": cpu or platform.machine(),
        "manufacturer": None,
        "soc": None,
        "os": name,
        "os_version": platform.release() or None,
        "os_build": platform.version() or None,
        "abi": platform.machine(),
        "cpu": cpu,
        "cores": psutil.cpu_count() or 1,
        "ram_bytes": psutil.virtual_memory().total,
    }


def _cpu() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or None


def condition() -> dict[str, Any]:
    """Heat, power, clock and load as this system tells them."""
    import psutil

    # Neither is there on every system.
    sensors: dict[str, list[Any]] = getattr(psutil, "sensors_temperatures", dict)()
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    return {
        "thermal_status": None,
        "temperatures_c": {
            f"{chip} {sensor.label or at}": float(sensor.current)
            for chip, found in sensors.items()
            for at, sensor in enumerate(found)
        },
        "battery_percent": float(battery.percent) if battery else None,
        "charging": bool(battery.power_plugged) if battery else None,
        "cpu_mhz": [float(core.current) for core in psutil.cpu_freq(percpu=True) or []],
        "load": psutil.getloadavg()[0] / (psutil.cpu_count() or 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.devices.local", description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("component")
    parser.add_argument("--runs", type=int, default=Options.runs)
    parser.add_argument("--warmup", type=int, default=Options.warmup)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(argv)
    if given.runs < 1 or given.warmup < 1 or (given.threads or 1) < 1:
        raise InputError("--runs, --warmup and --threads must be 1 or more")
    record = measure(Bundle.open(given.bundle), given.component, given.runs, given.warmup, given.threads)
    print(json.dumps(check_record(record, "the record")))
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
