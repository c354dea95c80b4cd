"""Benchmark records: reading, checking and writing them. The format is record.schema.json, the same on every device."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.files import atomic_file, parse_json
from runtime_py.bundle import MANIFEST, Bundle, tree_sha256

SCHEMA_VERSION = 1
MAX_RECORD_BYTES = 16 * 2**20
KINDS = ("measured", "emulated", "estimated")
PERCENTILES = (50, 90, 99)

PAPER: Mapping[str, Mapping[str, Any]] = {
    # Table 2 of the paper times the coefficients of SDXL's 280 layers; a merger's run also makes the merged LoRA.
    "merger": {"what": "coefficients of SDXL, rank 64 (Table 2)", "seconds": 0.037, "device": "NVIDIA RTX 4090"},
}
"""The paper's figures, by component."""


def bundle_head(bundle: Bundle, name: str, started: time.struct_time) -> dict[str, Any]:
    """What every record says of a bundle's component and of when it was made."""
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
    """The paper's figure to stand beside a component's; it has one for SDXL only."""
    return dict(PAPER[component]) if base == "sdxl" and component in PAPER else None


def runs(first_s: float, warmup_count: int, samples_s: Sequence[float]) -> dict[str, Any]:
    """The record's `runs` object of measured seconds, in the order they ran."""
    return {"first_s": first_s, "warmup_count": warmup_count, "samples_s": list(samples_s), **summary(samples_s)}


def summary(samples_s: Sequence[float]) -> dict[str, Any]:
    """n, mean, least and percentiles (linear interpolation, as the schema says); null of no samples."""
    keys = ["mean_s", "min_s", *(f"p{percent}_s" for percent in PERCENTILES)]
    if not samples_s:
        return {"n": 0, **dict.fromkeys(keys)}
    values = np.asarray(samples_s, np.float64)
    numbers = [values.mean(), values.min(), *np.percentile(values, PERCENTILES)]
    return {"n": len(samples_s), **{key: float(value) for key, value in zip(keys, numbers, strict=True)}}


def no_runs() -> dict[str, Any]:
    """`runs` of an estimate."""
    return {"first_s": None, "warmup_count": 0, "samples_s": [], **summary(())}


def check_record(record: object, name: str) -> dict[str, Any]:
    """The record, if it is a valid one. InputError says where `name` breaks the format or contradicts itself."""
    import jsonschema

    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise InputError(
            f"{name}: not a benchmark record of schema version {SCHEMA_VERSION}; make one with  "
            "python -m benchmarks.device"
        )
    schema = json.loads((resources.files("benchmarks") / "record.schema.json").read_text(encoding="utf-8"))
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(record))
    if error is not None:
        message = error.message if len(error.message) < 200 else error.message[:200] + "…"
        raise InputError(f"{name}: {error.json_path} breaks the record's schema ({message}); measure again")
    assert isinstance(record, dict)
    wrong = _contradiction(record)
    if wrong:
        raise InputError(f"{name}: {wrong}; measure again")
    return record


def _contradiction(record: Mapping[str, Any]) -> str | None:
    """What the schema can't relate: a kind and what belongs to it, samples and what is said of them."""
    estimated = record["kind"] == "estimated"
    found = record["runs"]
    if estimated != (record["estimate"] is not None) or estimated != (record["runner"] == "estimate"):
        return f"a record of kind {record['kind']} and its `estimate` do not go together"
    if estimated and (found["n"] or record["parity"]["status"] != "not_run"):
        return "an estimate has no runs and no parity"
    if not estimated and (found["n"] == 0 or record["parity"]["status"] != "passed"):
        return "a run without samples or without parity is no result"
    for key, value in summary(found["samples_s"]).items():
        stated = found[key]
        same = stated == value if value is None or stated is None else math.isclose(stated, value, rel_tol=1e-6)
        if not same:
            return f"its {key} is {stated}, but its samples give {value}"
    if found["n"] and found["warmup_count"] and found["first_s"] is None:
        return "it has warm-up runs, but no first run"
    return None


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file: one object, or a list of them. InputError names what is wrong with it."""
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError:
        raise InputError(f"{path}: no such file; make one with  python -m benchmarks.device --json FILE") from None
    if not path.is_file() or size > MAX_RECORD_BYTES:
        raise InputError(f"{path}: not a file of benchmark records (over {MAX_RECORD_BYTES >> 20} MB, or a folder)")
    try:
        data = parse_json(path.read_bytes(), str(path), mend="measure again")
    except (ValueError, RecursionError, OSError):
        raise InputError(f"{path}: not valid JSON; measure again") from None
    several = isinstance(data, list)
    entries = data if several else [data]
    if not entries:
        raise InputError(f"{path}: it holds no record; measure again")
    return [check_record(entry, f"{path}[{at}]" if several else str(path)) for at, entry in enumerate(entries)]


def write_records(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One object where there is one record, a list otherwise; each is checked first."""
    for record in records:
        check_record(record, str(path))
    document = records[0] if len(records) == 1 else list(records)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
