"""Benchmark records: what is a valid one, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import ESTIMATE, RECORD, changed, estimated

from benchmarks.record import check_record, read_records, runs, summary, write_records
from lorarar.errors import InputError


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
    for path, said in ((tmp_path, "no such file"), (tmp_path / "none", "no such file")):
        with pytest.raises(InputError, match=said):
            read_records(path)


def test_a_wrong_record_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result"):
        write_records([RECORD, changed("runs", runs(0.5, 1, []))], tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []
