"""Lower bounds of a run's time and memory on a phone, from operations, bytes and data sheets; nothing is run for them.

    python -m benchmarks.device --estimate "Pixel 9" --bundle BUNDLE   makes the records
    python -m benchmarks.estimate BUNDLE [--component NAME] [--json FILE]

The second says how far off such a bound is: it makes one of this computer's own measured limits and runs the component.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from benchmarks.devices.device import DeviceFailed, Options, Watch
from benchmarks.record import bundle_head, check_record, no_runs, write_records
from benchmarks.work import Work, count
from lorarar.command_line import EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain
from runtime_py.bundle import Bundle

LANES = {"fp32": 4, "fp16": 8}  # numbers in a 128-bit vector
ABI = {"android": "arm64-v8a", "ios": "arm64"}
RUNTIME = {"onnx": "onnxruntime", "coreml": "coreml"}
NOTE = "never run: a lower bound that leaves out activations, norms, caches, heat and every overhead"


def phones() -> list[Mapping[str, Any]]:
    """The phones whose data sheets are in phones.json."""
    found: list[Mapping[str, Any]] = json.loads((resources.files("benchmarks") / "phones.json").read_text())["phones"]
    return found


def find_phone(name: str) -> Mapping[str, Any]:
    """InputError with the known names."""
    for phone in phones():
        if phone["name"].casefold() == name.casefold():
            return phone
    raise InputError(f"unknown phone {name!r}; known are {', '.join(phone['name'] for phone in phones())}")


def peak_operations(phone: Mapping[str, Any], precision: str) -> float:
    """Operations a second that its unit can't exceed. Weights of few bits are multiplied as fp16 at best."""
    if phone["unit"] == "npu":
        return float(phone["tops"]) * 1e12
    lanes = LANES["fp32" if precision == "fp32" else "fp16"]
    return sum(2e9 * core["count"] * core["ghz"] * core["pipes"] * lanes for core in phone["cores"])


def bound(work: Work, operations_per_s: float, bytes_per_s: float) -> tuple[float, str]:
    """Least seconds, and what sets them."""
    compute, memory = work.operations / operations_per_s, work.read_bytes / bytes_per_s
    return (compute, "compute") if compute >= memory else (memory, "memory bandwidth")


def estimate(bundle: Bundle, component: str, phone: Mapping[str, Any]) -> dict[str, Any]:
    """A record of kind `estimated`. InputError where the phone can't have the bundle's target."""
    target, precision = bundle.manifest["target"], bundle.manifest["precision"]
    if (target == "coreml") != (phone["os"] == "ios"):
        wanted = "coreml" if phone["os"] == "ios" else "onnx"
        raise InputError(f"{phone['name']}: estimates for {phone['os']} need a bundle of --target {wanted}")
    work = count(bundle, component)
    operations = peak_operations(phone, precision)
    seconds, limit = bound(work, operations, phone["memory_gb_per_s"] * 1e9)
    cores = phone.get("cores", ())
    device = {
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
    unknown: dict[str, Any] = {"thermal_status": None, "temperatures_c": {}, "battery_percent": None, "charging": None}
    unknown |= {"cpu_mhz": [], "load": None}
    return check_record(
        {
            **bundle_head(bundle, component, time.gmtime()),
            "kind": "estimated",
            "runner": "estimate",
            "device": device,
            "runtime": {
                "name": RUNTIME[target],
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
        },
        "the estimate",
    )


class EstimatedPhone:
    """A phone of the table, which gives a bound where others give a measurement."""

    def __init__(self, phone: Mapping[str, Any]) -> None:
        self.phone = phone
        self.name = f"estimate:{phone['name']}"

    def measure(self, bundle: Bundle, component: str, options: Options, watch: Watch) -> dict[str, Any]:
        """A record of kind `estimated`. DeviceFailed where the phone can't have the bundle's target."""
        watch.say(f"{component}: counting")
        try:
            return estimate(bundle, component, self.phone)
        except InputError as error:
            raise DeviceFailed(str(error)) from None

    def close(self) -> None:
        """Nothing was put anywhere."""


def host_check(bundle: Bundle, component: str) -> dict[str, Any]:
    """The same bound from this computer's own measured limits, and the measured p50 over it. InputError as count."""
    try:
        from benchmarks.merge_cases import measure_machine
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "torch", "train") from None
    from benchmarks.devices.local import ThisComputer

    work, machine = count(bundle, component), measure_machine()
    seconds, limit = bound(work, machine.sgemm, machine.read_bandwidth)
    try:
        record = ThisComputer().measure(bundle, component, Options(), Watch())
    except DeviceFailed as error:
        raise InputError(str(error)) from None
    return {"bound_s": seconds, "limit": limit, "record": record, "over": record["runs"]["p50_s"] / seconds}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(
        prog="python -m benchmarks.estimate",
        description="How far off a lower bound is on this computer.",
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--component", default="unet", help="of the bundle (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measured record")
    options = parser.parse_args(argv)
    found = host_check(Bundle.open(options.bundle), options.component)
    measured = found["record"]["runs"]["p50_s"]
    print(
        f"at least {found['bound_s'] * 1e3:.3g} ms by {found['limit']}; measured p50 {measured * 1e3:.3g} ms, "
        f"{found['over']:.1f} times the bound"
    )
    if options.json is not None:
        write_records([found["record"]], options.json)
    return EXIT_OK


if __name__ == "__main__":
    run_command(main)
