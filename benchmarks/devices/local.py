"""Measure on this computer through the Python runtime, each component in a process of its own. Nothing is guessed."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from benchmarks.devices.device import Description, Device, DeviceFailed, MeasureOptions, Watch
from benchmarks.processes import peak_bytes, run_program
from benchmarks.record import RUNTIMES, bundle_head, check_record, paper_figure, parity, require_timed_here, runs
from lorarar.errors import FailedCheck, InputError
from lorarar.machine import processor_name
from runtime_py.backends import Runner, load_backend, open_runner
from runtime_py.bundle import Bundle
from runtime_py.check import compare_with_golden
from runtime_py.component import Component
from runtime_py.golden import golden_inputs
from runtime_py.parity import OutputDifference
from runtime_py.processes import same_paths
from runtime_py.stages import timed

NAME = "local"


class Local:
    """The kind of device that is always there."""

    usage = NAME
    takes = ("runs", "warmup", "threads", "timeout_s")

    def describe(self) -> list[Description]:
        """Describe this computer."""
        facts = computer()
        system = " ".join(part for part in (facts["os"], facts["os_version"]) if part)
        return [Description(NAME, "ready", facts["model"], facts["soc"], facts["abi"], system)]

    def open(self, which: str, options: MeasureOptions) -> list[Device]:
        """Return this computer. Raises InputError for any other name."""
        if which:
            raise InputError(f"`device` local:{which}: there is one local device; give local")
        return [ThisComputer()]


class ThisComputer:
    """The computer that the command runs on."""

    name = NAME

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        """Return one valid record. Raises DeviceFailed, which says in one sentence why there is none."""
        watch.say(f"{component}: running")
        command = [sys.executable, "-m", "benchmarks.local_run", str(bundle.path), component]
        command += ["--runs", str(options.runs), "--warmup", str(options.warmup)]
        command += ["--threads", str(options.threads)] if options.threads else []
        try:
            ran = run_program(command, options.timeout_s, watch.stop, end_s=0.0, environment=same_paths())
        except TimeoutError:
            watch.check()  # an interrupted plan says so
            raise DeviceFailed(
                f"it took over {options.timeout_s:g} s and was stopped; give a longer `timeout_s`"
            ) from None
        watch.check()
        if ran.code:
            raise DeviceFailed(ran.last_words if ran.err.strip() else f"it ended with code {ran.code}")
        return check_record(json.loads(ran.out.splitlines()[-1]), f"the local record of {component}")

    def close(self) -> None:
        """Do nothing: nothing was put anywhere."""


def measure_component(bundle: Bundle, name: str, options: MeasureOptions) -> dict[str, Any]:
    """Measure one component in this process and return its record.

    Raises FailedCheck for a run that is no result, InputError for what can't be measured here.
    """
    target = bundle.manifest["target"]
    require_timed_here(target, str(bundle.path))
    component = bundle.component(name)
    load_backend(target)
    started, before = time.gmtime(), condition()
    load: dict[str, float] = {}
    for key in ("cold_s", "warm_s"):
        runner: Runner | None = None  # the first one is closed before the second is opened
        with timed(load, key):
            runner = open_runner(bundle, name, options.threads)
    assert runner is not None
    inputs = golden_inputs(component)
    seconds: list[float] = []
    for _ in range(options.warmup + options.runs):
        outputs: dict[str, np.ndarray] = {}  # freed outside the measured time, before the next run's are made
        start = time.perf_counter()
        outputs = runner.run(inputs)
        seconds.append(time.perf_counter() - start)
    memory, after = {"peak_bytes": peak_bytes(), "measure": "rss"}, condition()
    found = _compared(component, runner, inputs, outputs)
    return {
        **bundle_head(bundle, name, started),
        "kind": "measured",
        "runner": "python",
        "device": computer(),
        "runtime": RUNTIMES[target].record(runner.version, options.threads),
        "load": load,
        "runs": runs(seconds[0] if options.warmup else None, options.warmup, seconds[options.warmup :]),
        "memory": memory,
        "conditions": {"before": before, "after": after, "cooldown_s": 0.0},
        "parity": parity(found, component.tolerance, bundle.manifest["precision"]),
        "estimate": None,
        "paper": paper_figure(bundle.manifest["base"], name),
        "notes": ["golden inputs are in memory; the session hands out new arrays"],
    }


def _compared(
    component: Component, runner: Runner, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> tuple[OutputDifference, ...]:
    """Compare a run with PyTorch's. Raises FailedCheck for a run that is no result."""
    found = compare_with_golden(component.golden(), runner, inputs, outputs)
    for difference in found:
        if not math.isfinite(difference.max_error):
            raise FailedCheck(
                f"{component.name}'s {difference.output} holds values that are not finite, or is not of the golden "
                "size, so that the run is no result"
            )
    return found


def computer() -> dict[str, Any]:
    """Return a record's `device` object for this computer; None for what it doesn't tell."""
    cpu = processor_name()
    return {
        "model": cpu,
        "manufacturer": None,
        "soc": None,
        "os": {"Darwin": "macos", "Windows": "windows"}.get(platform.system(), "linux"),
        "os_version": platform.release() or None,
        "os_build": platform.version() or None,
        "abi": platform.machine(),
        "cpu": cpu,
        "cores": psutil.cpu_count() or 1,
        "ram_bytes": psutil.virtual_memory().total,
    }


def condition() -> dict[str, Any]:
    """Return a record's `condition` object: heat, power, clock and load, as far as this system tells them."""
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
        "battery_percent": min(100.0, float(battery.percent)) if battery else None,  # a new one may have more
        "charging": battery.power_plugged if battery else None,  # None where the system doesn't tell
        "cpu_mhz": [float(core.current) for core in psutil.cpu_freq(percpu=True) or []],
        "load": psutil.getloadavg()[0] / (psutil.cpu_count() or 1),
    }
