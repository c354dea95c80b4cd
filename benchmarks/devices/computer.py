"""Tell what this computer is and how warm, charged and busy it is, in a record's words. Nothing is guessed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil


def computer() -> dict[str, Any]:
    """Return a record's `device` object for this computer; None for what it doesn't tell."""
    cpu = _cpu()
    return {
        "model": cpu or platform.machine(),
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


def _cpu() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or None


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
        "battery_percent": float(battery.percent) if battery else None,
        "charging": bool(battery.power_plugged) if battery else None,
        "cpu_mhz": [float(core.current) for core in psutil.cpu_freq(percpu=True) or []],
        "load": psutil.getloadavg()[0] / (psutil.cpu_count() or 1),
    }
