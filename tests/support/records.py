"""A valid benchmark record, for tests to change."""

from __future__ import annotations

import copy
from typing import Any

from benchmarks.record import NOT_COMPARED, runs

CONDITION = {
    "thermal_status": None,
    "temperatures_c": {},
    "battery_percent": None,
    "charging": None,
    "cpu_mhz": [],
    "load": 0.1,
}
RECORD: dict[str, Any] = {
    "schema_version": 2,
    "kind": "measured",
    "toolkit_version": "0.1.0",
    "started_at": "2026-11-25T13:00:00Z",
    "runner": "python",
    "bundle": {"base": "miniature", "target": "onnx", "precision": "fp32", "manifest_sha256": "0" * 64},
    "component": "hypernet",
    "artifact": {"file": "hypernet.onnx", "bytes": 10, "sha256": "1" * 64},
    "device": {
        "model": "a host",
        "manufacturer": None,
        "soc": None,
        "os": "linux",
        "os_version": None,
        "os_build": None,
        "abi": "x86_64",
        "cpu": None,
        "cores": 2,
        "ram_bytes": None,
    },
    "runtime": {"name": "onnxruntime", "version": "1", "backend": "CPU", "compute_unit": "cpu", "threads": 2},
    "load": {"cold_s": 0.5, "warm_s": 0.25},
    "runs": runs(0.5, 1, [0.25, 0.5, 0.75]),
    "memory": {"peak_bytes": 1000, "measure": "rss"},
    "conditions": {"before": CONDITION, "after": CONDITION, "cooldown_s": 0},
    "parity": {"status": "passed", "within_tolerance": True, "psnr_db": 140.0, "max_error": 1e-7, "delta": None},
    "estimate": None,
    "paper": None,
    "notes": [],
}
ESTIMATE = {
    "latency_s": 0.1,
    "memory_bytes": 10,
    "operations": 5,
    "read_bytes": 5,
    "limit": "compute",
    "sources": ["a data sheet"],
}


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the record with one value changed, at a path such as `load.cold_s`."""
    record = copy.deepcopy(RECORD)
    *parents, last = path.split(".")
    place = record
    for key in parents:
        place = place[key]
    place[last] = value
    return record


def of_a_unet(precision: str = "fp16", **parity: Any) -> dict[str, Any]:
    """Return the record as one of a UNet, with some of its parity changed."""
    record = changed("bundle.precision", precision) | {"component": "unet"}
    delta = {"gain": 0.9987, "cosine": 0.9999, "snr_db": 52.0}
    record["parity"] = {**RECORD["parity"], "psnr_db": 64.0, "max_error": 1e-3, "delta": delta, **parity}
    return record


def estimated() -> dict[str, Any]:
    """Return the record as an estimate."""
    return RECORD | {
        "kind": "estimated",
        "runner": "estimate",
        "estimate": ESTIMATE,
        "runs": runs(None, 0, ()),
        "parity": dict(NOT_COMPARED),
    }
