"""Bound a run's time and memory on a phone from below, by operations, bytes and data sheets. Nothing is run for it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

from benchmarks.devices.device import DeviceFailed, MeasureOptions, Watch
from benchmarks.devices.local import ThisComputer
from benchmarks.machine import measure_machine
from benchmarks.record import bundle_head, check_record, no_runs
from benchmarks.runtimes import RUNTIMES
from benchmarks.work import ComponentWork, count_work
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain
from runtime_py.bundle import Bundle

LANES = {"fp32": 4, "fp16": 8}  # numbers in a 128-bit vector
ABI = {"android": "arm64-v8a", "ios": "arm64"}
NOTE = "never run: a lower bound that leaves out activations, norms, caches, heat and every overhead"


def phones() -> list[Mapping[str, Any]]:
    """Return the phones whose data sheets are in phones.json."""
    found: list[Mapping[str, Any]] = json.loads((resources.files("benchmarks") / "phones.json").read_text())["phones"]
    return found


def find_phone(name: str) -> Mapping[str, Any]:
    """Return the phone of that name. Raises InputError with the names that are known."""
    for phone in phones():
        if phone["name"].casefold() == name.casefold():
            return phone
    raise InputError(f"unknown phone {name!r}; known are {', '.join(phone['name'] for phone in phones())}")


def peak_operations(phone: Mapping[str, Any], precision: str) -> float:
    """Return the operations a second that the phone's unit can't exceed.

    Weights of few bits are multiplied as fp16 at best.
    """
    if phone["unit"] == "npu":
        return float(phone["tops"]) * 1e12
    lanes = LANES["fp32" if precision == "fp32" else "fp16"]
    return sum(2e9 * core["count"] * core["ghz"] * core["pipes"] * lanes for core in phone["cores"])


def bound(work: ComponentWork, operations_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    """Return the least seconds that the work takes, and what sets them."""
    compute, memory = work.operations / operations_per_s, work.read_bytes / bytes_per_s
    return (compute, "compute") if compute >= memory else (memory, "memory bandwidth")


def estimate(bundle: Bundle, component: str, phone: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of kind `estimated`. Raises InputError where the phone can't have the bundle's target."""
    target, precision = bundle.manifest["target"], bundle.manifest["precision"]
    if RUNTIMES[target].apple_only != (phone["os"] == "ios"):
        wanted = "coreml" if phone["os"] == "ios" else "onnx"
        raise InputError(f"{phone['name']}: estimates for {phone['os']} need a bundle whose target is {wanted}")
    work = count_work(bundle, component)
    seconds, limit = bound(work, peak_operations(phone, precision), phone["memory_gb_per_s"] * 1e9)
    unknown: dict[str, Any] = {"thermal_status": None, "temperatures_c": {}, "battery_percent": None, "charging": None}
    unknown |= {"cpu_mhz": [], "load": None}
    record = {
        **bundle_head(bundle, component, time.gmtime()),
        "kind": "estimated",
        "runner": "estimate",
        "device": _device(phone),
        "runtime": {
            "name": RUNTIMES[target].name,
            "version": "not run",
            "backend": "not run",
            "compute_unit": phone["unit"],
            "threads": None,
        },
        "load": {"cold_s": None, "warm_s": None},
        "runs": no_runs(),
        "memory": {"peak_bytes": None, "measure": None},
        "conditions": {"before": unknown, "after": unknown, "cooldown_s": None},
        "parity": {"status": "not_run", "psnr_db": None, "max_error": None},
        "estimate": {
            "latency_s": seconds,
            "memory_bytes": work.read_bytes,
            "operations": work.operations,
            "read_bytes": work.read_bytes,
            "limit": limit,
            "sources": list(phone["sources"].values()),
        },
        "paper": None,
        "notes": [NOTE],
    }
    return check_record(record, "the estimate")


def _device(phone: Mapping[str, Any]) -> dict[str, Any]:
    cores = phone.get("cores", ())
    return {
        "model": phone["name"],
        "manufacturer": None,
        "soc": phone["soc"],
        "os": phone["os"],
        "os_version": None,
        "os_build": None,
        "abi": ABI[phone["os"]],
        "cpu": ", ".join(f"{core['count']}× {core['name']}" for core in cores) or None,
        "cores": sum(core["count"] for core in cores) or 1,
        "ram_bytes": int(phone["ram_gb"] * 1e9),
    }


class EstimatedPhone:
    """A phone of the table, which gives a bound where other devices give a measurement."""

    def __init__(self, phone: Mapping[str, Any]) -> None:
        self.phone = phone
        self.name = f"estimate:{phone['name']}"

    def measure(self, bundle: Bundle, component: str, options: MeasureOptions, watch: Watch) -> dict[str, Any]:
        """Return a record of kind `estimated`. Raises DeviceFailed where the phone can't have the bundle's target."""
        watch.say(f"{component}: counting")
        try:
            return estimate(bundle, component, self.phone)
        except InputError as error:
            raise DeviceFailed(str(error)) from None

    def close(self) -> None:
        """Do nothing: nothing was put anywhere."""


def check_on_this_computer(bundle: Bundle, component: str) -> dict[str, Any]:
    """Return the bound from this computer's own measured limits, a record of a run, and the run's p50 over the bound.

    Raises InputError as `count_work`, where torch is missing, and where the component can't be run.
    """
    work = count_work(bundle, component)
    try:
        machine = measure_machine()
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    seconds, limit = bound(work, machine.sgemm, machine.read_bandwidth)
    try:
        record = ThisComputer().measure(bundle, component, MeasureOptions(), Watch())
    except DeviceFailed as error:
        raise InputError(str(error)) from None
    return {"bound_s": seconds, "limit": limit, "record": record, "over": record["runs"]["p50_s"] / seconds}
