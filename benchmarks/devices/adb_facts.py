"""Read what an Android device tells of itself from the text of its own commands.

Nothing is guessed: what isn't there, or can't be read, is None.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
CPU_TYPE = 0  # android.os.Temperature.TYPE_CPU
PLAUSIBLE_C = (-30.0, 150.0)  # a sensor that isn't there answers -99.9, -273, or with a voltage
BATTERY_CHARGING, BATTERY_NOT_CHARGING = 2, (3, 4, 5)  # android.os.BatteryManager.BATTERY_STATUS_*; 1 is unknown

# One round trip each, so that all of it is of one moment. Sections that a device refuses stay empty.
FACTS_SCRIPT = """
echo @props; getprop
echo @cpuinfo; cat /proc/cpuinfo
echo @memory; cat /proc/meminfo
echo @present; cat /sys/devices/system/cpu/present
"""
CONDITIONS_SCRIPT = """
echo @thermal; dumpsys thermalservice
echo @battery; dumpsys battery
echo @zones; for z in /sys/class/thermal/thermal_zone*; do echo "$(cat $z/temp) $(cat $z/type)"; done
echo @mhz; cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq
echo @load; cat /proc/loadavg
echo @power; dumpsys power | grep mWakefulness=
"""
LIMITS_SCRIPT = (
    'for c in /sys/devices/system/cpu/cpu[0-9]*; do echo "${c##*cpu} $(cat $c/cpufreq/cpuinfo_max_freq)"; done'
)

# The names of Arm's own cores by the part number in /proc/cpuinfo, a line each for its architectures 8.0, 8.2, 9.0 and
# 9.2; other cores are told by their numbers.
CORTEX = {
    **{0xD03: "A53", 0xD04: "A35", 0xD07: "A57", 0xD08: "A72", 0xD09: "A73"},
    **{0xD05: "A55", 0xD0A: "A75", 0xD0B: "A76", 0xD0D: "A77", 0xD41: "A78", 0xD44: "X1"},
    **{0xD46: "A510", 0xD47: "A710", 0xD48: "X2", 0xD4D: "A715", 0xD4E: "X3"},
    **{0xD80: "A520", 0xD81: "A720", 0xD82: "X4", 0xD85: "X925", 0xD87: "A725"},
}


class AndroidFacts(NamedTuple):
    """An Android device: the record's `device` object, and whether it is an emulator."""

    device: Mapping[str, Any]
    emulated: bool


class Conditions(NamedTuple):
    """A device's state at one moment: the record's `condition` object, and beside it, where they are told, the hottest
    CPU in °C and whether the screen is on.
    """

    condition: Mapping[str, Any]
    hottest_cpu_c: float | None
    awake: bool | None

    @property
    def thermal_status(self) -> str | None:
        return self.condition["thermal_status"]


def sections(text: str) -> dict[str, str]:
    """Split the output of one of the scripts above at its `@` marks; sections that were cut off are empty."""
    parts = re.split(r"^@(\w+)\r?\n", text, flags=re.MULTILINE)
    return defaultdict(str, zip(parts[1::2], parts[2::2], strict=True))


def parse_facts(text: str) -> AndroidFacts:
    """Read the output of FACTS_SCRIPT."""
    part = sections(text)
    lines = re.findall(r"^\[(.+?)\]: \[(.*)\]\r?$", part["props"], re.MULTILINE)
    props = {name: value for name, value in lines if value}
    soc = " ".join(props[key] for key in ("ro.soc.manufacturer", "ro.soc.model") if key in props)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", part["memory"], re.MULTILINE)
    device = {
        "model": props.get("ro.product.model", "unknown"),
        "manufacturer": props.get("ro.product.manufacturer"),
        "soc": soc or props.get("ro.board.platform"),  # ro.soc is of Android 12
        "os": "android",
        "os_version": props.get("ro.build.version.release"),
        "os_build": props.get("ro.build.display.id"),
        "abi": props.get("ro.product.cpu.abi", "unknown"),
        "cpu": parse_cpu(part["cpuinfo"]),
        "cores": len(parse_cores(part["present"])) or 1,
        "ram_bytes": int(memory[1]) * 1024 if memory else None,
    }
    # Emulators up to Android 11 set the first, later ones the second.
    return AndroidFacts(device, "1" in (props.get("ro.kernel.qemu"), props.get("ro.boot.qemu")))


def parse_cpu(cpuinfo: str) -> str | None:
    """Name the cores of an Arm /proc/cpuinfo and count equal ones together: `Cortex-A55 ×4, Cortex-A76 ×2`."""
    pairs = re.findall(r"CPU implementer\s*: (0x\w+).*?CPU part\s*: (0x\w+)", cpuinfo, re.DOTALL)
    arms = {number: f"Cortex-{name}" for number, name in CORTEX.items()}
    names = [
        arms.get(int(part, 16), f"Arm {part}") if int(maker, 16) == 0x41 else f"implementer {maker} part {part}"
        for maker, part in pairs
    ]
    return ", ".join(f"{name} ×{count}" for name, count in Counter(names).items()) or None


def parse_cores(text: str) -> list[int]:
    """Read a kernel's list of cores: `0-3,6` is [0, 1, 2, 3, 6]."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return [core for first, last in ranges for core in range(int(first), int(last or first) + 1)]


def parse_conditions(text: str, cores: int) -> Conditions:
    """Read the output of CONDITIONS_SCRIPT."""
    part = sections(text)
    status, zones = parse_thermal_service(part["thermal"])
    percent, charging, battery_c = parse_battery(part["battery"])
    battery = {} if battery_c is None else {"battery": (battery_c, False)}
    zones = {**parse_zones(part["zones"]), **battery, **zones}
    load = re.match(r"[\d.]+", part["load"])
    condition = {
        "thermal_status": status,
        "temperatures_c": {name: celsius for name, (celsius, _) in zones.items()},
        "battery_percent": percent,
        "charging": charging,
        "cpu_mhz": [int(khz) / 1000 for khz in re.findall(r"^\d+", part["mhz"], re.MULTILINE)],
        "load": float(load[0]) / cores if load else None,
    }
    wakefulness = re.search(r"mWakefulness=(\w+)", part["power"])
    awake = wakefulness[1] == "Awake" if wakefulness else None
    return Conditions(condition, max((celsius for celsius, cpu in zones.values() if cpu), default=None), awake)


def parse_thermal_service(text: str) -> tuple[str | None, dict[str, tuple[float, bool]]]:
    """Read `dumpsys thermalservice` (Android 10 and later): the status, and each sensor's °C and whether it is a CPU's.

    The cached temperatures stand first and are those of the last event, which can be long ago: only what the HAL says
    now counts. Some makers number the types of sensors their own way, so that a sensor's name counts as well.
    """
    found = re.search(r"^Thermal Status: (\d+)", text, re.MULTILINE)
    status = dict(enumerate(THERMAL_STATUS)).get(int(found[1])) if found else None
    _, _, now = text.partition("Current temperatures from HAL:")
    now = re.split(r"^\S", now, maxsplit=1, flags=re.MULTILINE)[0]
    pattern = r"Temperature\{mValue=([-\d.]+), mType=(-?\d+), mName=([^,}]+)"
    zones = {
        name: (float(value), int(kind) == CPU_TYPE or "cpu" in name.lower())
        for value, kind, name in re.findall(pattern, now)
        if PLAUSIBLE_C[0] < float(value) < PLAUSIBLE_C[1]
    }
    return status, zones


def parse_zones(text: str) -> dict[str, tuple[float, bool]]:
    """Read /sys/class/thermal, `TEMP TYPE` a line; of zones with the same name the hottest counts.

    Most kernels count thousandths of a degree, some whole ones.
    """
    zones: dict[str, tuple[float, bool]] = {}
    for value, name in re.findall(r"^(-?\d+) (\S+)", text, re.MULTILINE):
        celsius = int(value) / 1000 if abs(int(value)) >= 1000 else float(value)
        if PLAUSIBLE_C[0] < celsius < PLAUSIBLE_C[1]:
            zones[name] = max((celsius, "cpu" in name.lower()), zones.get(name, (celsius, False)))
    return zones


def parse_battery(text: str) -> tuple[float | None, bool | None, float | None]:
    """Read `dumpsys battery`: the percent, whether it charges, and its °C."""
    found = {name: int(value) for name, value in re.findall(r"^\s+(\w+): (-?\d+)\s*$", text, re.MULTILINE)}
    level, scale, status = found.get("level"), found.get("scale"), found.get("status")
    percent = 100 * level / scale if level is not None and scale else None
    charging = True if status == BATTERY_CHARGING else False if status in BATTERY_NOT_CHARGING else None
    return percent, charging, found["temperature"] / 10 if "temperature" in found else None


def parse_pss(text: str) -> int | None:
    """Read the bytes of `dumpsys meminfo PROCESS` from its TOTAL row, which is in kB on every Android version."""
    found = re.search(r"^\s*TOTAL(?: PSS)?:?\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def big_cores(text: str) -> list[int]:
    """Read the output of LIMITS_SCRIPT: every core that is faster than the slowest ones.

    Empty where all are alike, or the device doesn't tell.
    """
    limits = {int(core): int(khz) for core, khz in re.findall(r"^(\d+) (\d+)", text, re.MULTILINE)}
    slowest = min(limits.values(), default=0)
    return sorted(core for core, khz in limits.items() if khz > slowest)
