"""Benchmark records: what is a valid one, and what is refused with which words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.record import check_record, no_runs, read_records, runs, summary, write_records
from lorarar.errors import InputError

CONDITION = {
    "thermal_status": None,
    "temperatures_c": {},
    "battery_percent": None,
    "charging": None,
    "cpu_mhz": [],
    "load": 0.1,
}
RECORD: dict[str, Any] = {
    "schema_version": 1,
    "kind": "measured",
    "toolkit_version": "0.1.0",
    "started_at": "2026-11-25T13:00:00Z",
    "runner": "python",
    "bundle": {"base": "miniature", "target": "onnx", "precision": "fp32", "manifest_sha256": "0" * 64},
    "component": "merger",
    "artifact": {"file": "merger.onnx", "bytes": 10, "sha256": "1" * 64},
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
    "parity": {"status": "passed", "psnr_db": 140.0, "max_error": 1e-7},
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
    record = copy.deepcopy(RECORD)
    *parents, last = path.split(".")
    place = record
    for key in parents:
        place = place[key]
    place[last] = value
    return record


def estimated() -> dict[str, Any]:
    return RECORD | {
        "kind": "estimated",
        "runner": "estimate",
        "estimate": ESTIMATE,
        "runs": no_runs(),
        "parity": {"status": "not_run", "psnr_db": None, "max_error": None},
    }


def test_valid_records_come_back_as_they_went(tmp_path: Path) -> None:
    for records in ([RECORD], [RECORD, estimated()]):
        write_records(records, tmp_path / "r.json")
        assert read_records(tmp_path / "r.json") == records


def test_percentiles_are_those_of_the_schema() -> None:
    assert summary([4.0, 1.0, 3.0, 2.0]) == {
        "n": 4,
        "mean_s": 2.5,
        "min_s": 1.0,
        "p50_s": 2.5,
        "p90_s": pytest.approx(3.7),
        "p99_s": pytest.approx(3.97),
    }


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=50))
def test_a_summary_lies_within_its_samples(samples: list[float]) -> None:
    found = summary(samples)
    order = [found[key] for key in ("min_s", "p50_s", "p90_s", "p99_s")]
    assert order == sorted(order)
    assert found["min_s"] == min(samples) and found["p99_s"] <= max(samples)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema_version", 2, "schema version 1"),
        ("schema_version", True, "schema version 1"),
        ("kind", "guessed", r"\$.kind breaks"),
        ("runs.samples_s", [0.25, 0.5, 0.8], "its mean_s is 0.5, but its samples give"),
        ("runs.samples_s", [0.25, 0.5, -1], r"\$.runs.samples_s\[2\]"),
        ("runs.p90_s", 0.5, "its p90_s is 0.5"),
        ("runs", runs(0.5, 1, []), "no result"),
        ("runs.first_s", None, "no first run"),
        ("parity.status", "failed", r"\$.parity.status"),
        ("parity.status", "not_run", "no result"),
        ("kind", "estimated", "do not go together"),
        ("estimate", ESTIMATE, "do not go together"),
        ("artifact.sha256", "G" * 64, r"\$.artifact.sha256"),
        ("device.cores", 0, r"\$.device.cores"),
        ("started_at", "yesterday", r"\$.started_at"),
        ("extra", 1, "extra"),
    ],
)
def test_wrong_records_are_refused(path: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_record(changed(path, value), "r.json")


def test_an_estimate_with_runs_is_refused() -> None:
    with pytest.raises(InputError, match="an estimate has no runs"):
        check_record(estimated() | {"runs": RECORD["runs"]}, "r.json")


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    for text, said in (
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "holds no record"),
        ("3", "not a benchmark record"),
        (json.dumps([RECORD, RECORD | {"kind": 1}]), r"r.json\[1\]: \$.kind"),
        (json.dumps(RECORD).replace("140.0", "NaN"), "not valid JSON"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            read_records(file)
    for path, said in ((tmp_path, "not a file"), (tmp_path / "none", "no such file")):
        with pytest.raises(InputError, match=said):
            read_records(path)


def test_a_wrong_record_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result"):
        write_records([RECORD, changed("runs", runs(0.5, 1, []))], tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []
