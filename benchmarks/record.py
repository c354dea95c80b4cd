"""Read, check and write benchmark records. Their format is record.schema.json, the same on every device."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorarar.errors import InputError
from lorarar.files import atomic_file, check_schema, package_schema, read_json
from runtime_py.bundle import Bundle
from runtime_py.hashes import tree_sha256
from runtime_py.manifest import MANIFEST
from runtime_py.parity import OutputDifference, Tolerance, worst_delta

SCHEMA_VERSION = 2
_SCHEMA = package_schema("benchmarks", "record.schema.json")
MAX_RECORD_BYTES = 16 * 2**20
AGAIN = "measure again"
KINDS = ("measured", "emulated", "estimated")
PERCENTILES = (50, 90, 99)
DEVICE_GATES_DB: Mapping[str, float] = {"fp32": 70.0, "fp16": 50.0, "w8": 40.0, "w6": 30.0, "w4": 25.0}
"""The PSNR that a run on any device must reach, by the precision of the bundle's UNet.

A bundle's tolerance tells whether the program is right, on the machine that exported it. Devices add up in other orders
and precisions: this tells whether their images are still those of the model.
"""
NOT_COMPARED = {"status": "not_run", "within_tolerance": None, "psnr_db": None, "max_error": None, "delta": None}
"""The `parity` of what was never run."""

# Table 2 of the paper times the coefficients of SDXL's 280 layers, which is what a run of the hypernetwork makes.
PAPER = {"what": "coefficients of SDXL, rank 64 (Table 2)", "seconds": 0.037, "device": "NVIDIA RTX 4090"}


APPLE, SNAPDRAGON = "Apple systems", "Snapdragon devices"


class Runtime(NamedTuple):
    """What runs the artifacts of a target, in the words of record.schema.json."""

    name: str
    backend: str  # what runs the graph on a computer
    unit: str  # where it runs it there
    only_on: str = ""  # the only systems that it can be timed on

    def record(self, version: str, threads: int | None) -> dict[str, Any]:
        """Return a record's `runtime` object for a run on a computer; threads are chosen for CPUs alone."""
        where = {"backend": self.backend, "compute_unit": self.unit}
        return {"name": self.name, "version": version, **where, "threads": threads if self.unit == "cpu" else None}


RUNTIMES: Mapping[str, Runtime] = {
    "onnx": Runtime("onnxruntime", "CPUExecutionProvider", "cpu"),
    "executorch": Runtime("executorch", "XNNPACK", "cpu"),
    "coreml": Runtime("coreml", "Core ML", "all", APPLE),
    "coreai": Runtime("coreai", "Core AI", "all", APPLE),
    "qnn": Runtime("onnxruntime", "QNNExecutionProvider", "npu", SNAPDRAGON),
}
"""Target → its runtime."""
ANYWHERE = tuple(target for target, runtime in RUNTIMES.items() if not runtime.only_on)
"""The targets whose artifacts can be timed on every computer."""


def require_timed_here(target: str, what: str) -> None:
    """Refuse what can't be timed on this computer; `what` is named in the InputError."""
    only_on = RUNTIMES[target].only_on
    here = {"": True, APPLE: platform.system() == "Darwin", SNAPDRAGON: platform.machine() == "aarch64"}
    if not here[only_on]:
        raise InputError(f"{what}: a {target} bundle is timed on {only_on} only; check it with  lorarar check")


def bundle_head(bundle: Bundle, name: str, started: time.struct_time) -> dict[str, Any]:
    """Return what every record says of a bundle's component and of when it was made."""
    entry = bundle.manifest["components"][bundle.component(name).name]
    return {
        "schema_version": SCHEMA_VERSION,
        "toolkit_version": bundle.manifest["toolkit_version"],
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", started),
        "bundle": {
            **{key: bundle.manifest[key] for key in ("base", "target", "precision")},
            "manifest_sha256": tree_sha256(bundle.path / MANIFEST)[1],
        },
        "component": name,
        "artifact": {key: entry[key] for key in ("file", "bytes", "sha256")},
    }


def paper_figure(base: str, component: str) -> dict[str, Any] | None:
    """Return the paper's figure to stand beside a component's, or None; it has one for SDXL's hypernetwork only."""
    return dict(PAPER) if (base, component) == ("sdxl", "hypernet") else None


def gate_status(precision: str, psnr_db: float | None) -> str:
    """Return `passed` or `below` of the device gate; the PSNR of equal outputs is None."""
    return "passed" if psnr_db is None or psnr_db >= DEVICE_GATES_DB[precision] else "below"


def parity(found: Sequence[OutputDifference], tolerance: Tolerance, precision: str) -> dict[str, Any]:
    """Return a record's `parity` object of a run's outputs, whose largest errors are finite."""
    psnr_db = _finite(min(difference.psnr_db for difference in found))
    delta = worst_delta(found)
    return {
        "status": gate_status(precision, psnr_db),
        "within_tolerance": all(difference.within(tolerance) for difference in found),
        "psnr_db": psnr_db,
        "max_error": max(difference.max_error for difference in found),
        "delta": delta and {key: _finite(value) for key, value in asdict(delta).items()},
    }


def _finite(value: float) -> float | None:
    """Return a number as JSON can hold it."""
    return value if math.isfinite(value) else None


def runs(first_s: float | None, warmup_count: int, samples_s: Sequence[float]) -> dict[str, Any]:
    """Return a record's `runs` object for measured seconds, in the order they ran.

    Without a warm-up there is no first run: `first_s` is not among the samples.
    """
    return {"first_s": first_s, "warmup_count": warmup_count, "samples_s": list(samples_s), **summary(samples_s)}


def summary(samples_s: Sequence[float]) -> dict[str, Any]:
    """Return n, mean, least and percentiles, as the schema defines them; None of each where there are no samples."""
    keys = ["mean_s", "min_s", *(f"p{percent}_s" for percent in PERCENTILES)]
    if not samples_s:
        return {"n": 0, **dict.fromkeys(keys)}
    values = np.asarray(samples_s, np.float64)
    numbers = [values.mean(), values.min(), *np.percentile(values, PERCENTILES)]
    return {"n": len(samples_s), **{key: float(value) for key, value in zip(keys, numbers, strict=True)}}


def check_record(record: object, name: str) -> dict[str, Any]:
    """Return the record if it is valid. InputError says where `name` breaks the format or contradicts itself."""
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InputError(
            f"{name}: not a benchmark record of schema version {SCHEMA_VERSION}; make one with  lorarar bench device"
        )
    check_schema(record, _SCHEMA, name, AGAIN)
    assert isinstance(record, dict)
    wrong = (
        _kind_contradiction(record)
        or _parity_contradiction(record["parity"], record["bundle"]["precision"])
        or _runs_contradiction(record["runs"])
    )
    if wrong:
        raise InputError(f"{name}: {wrong}; {AGAIN}")
    return record


def _kind_contradiction(record: Mapping[str, Any]) -> str | None:
    """Return where a kind lacks what belongs to it, or has what belongs to another."""
    estimated, found = record["kind"] == "estimated", record["runs"]
    if estimated != (record["estimate"] is not None) or estimated != (record["runner"] == "estimate"):
        return f"a record of kind {record['kind']} and its `estimate` do not go together"
    if estimated and (found["n"] or record["parity"]["status"] != "not_run"):
        return "an estimate has no runs and no parity"
    if not estimated and (found["n"] == 0 or record["parity"]["status"] == "not_run"):
        return "a run without samples or without parity is no result"
    return None


def _runs_contradiction(found: Mapping[str, Any]) -> str | None:
    """Return where the samples give other numbers than those that are stated."""
    for key, value in summary(found["samples_s"]).items():
        stated = found[key]
        same = stated == value if value is None or stated is None else math.isclose(stated, value, rel_tol=1e-6)
        if not same:
            return f"its {key} is {stated}, but its samples give {value}"
    if found["n"] and found["warmup_count"] and found["first_s"] is None:
        return "it has warm-up runs, but no first run"
    return None


def _parity_contradiction(found: Mapping[str, Any], precision: str) -> str | None:
    """Return where the status is not what the figures say."""
    run = found["status"] != "not_run"
    figures = [found["within_tolerance"], found["max_error"]]
    if any((figure is not None) != run for figure in figures) or (not run and found != NOT_COMPARED):
        return f"a parity of status {found['status']} and its figures do not go together"
    if run and found["status"] != gate_status(precision, found["psnr_db"]):
        gate = DEVICE_GATES_DB[precision]
        return f"its parity is {found['status']}, but {found['psnr_db']} dB and the gate of {gate:g} dB say otherwise"
    return None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a file: one object, or a list of them. Raises InputError that names what is wrong with it."""
    data = read_json(path, what="benchmark records", mend=AGAIN, limit=MAX_RECORD_BYTES)
    several = isinstance(data, list)
    entries = data if several else [data]
    if not entries:
        raise InputError(f"{path}: it holds no record; {AGAIN}")
    return [check_record(entry, f"{path}[{at}]" if several else str(path)) for at, entry in enumerate(entries)]


def write_records(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write records to a file, one object or a list of them; each is checked first."""
    for record in records:
        check_record(record, str(path))
    document = records[0] if len(records) == 1 else list(records)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
