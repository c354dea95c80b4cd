"""Benchmark records: what is a valid one, and what is refused with which words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import ESTIMATE, RECORD, changed, estimated, of_a_unet

from benchmarks.record import (
    DEVICE_GATES_DB,
    check_record,
    gate_status,
    parity,
    read_records,
    runs,
    summary,
    write_records,
)
from lorarar.errors import InputError
from runtime_py.parity import Delta, DeltaTolerance, OutputDifference, Tolerance


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
        ("schema_version", 1, "schema version 2"),
        ("schema_version", True, "schema version 2"),
        ("kind", "guessed", r"\$.kind breaks"),
        ("runs.samples_s", [0.25, 0.5, 0.8], "its mean_s is 0.5, but its samples give"),
        ("runs.samples_s", [0.25, 0.5, -1], r"\$.runs.samples_s\[2\]"),
        ("runs.p90_s", 0.5, "its p90_s is 0.5"),
        ("runs", runs(0.5, 1, []), "no result"),
        ("runs.first_s", None, "no first run"),
        ("parity.status", "failed", r"\$.parity.status"),
        ("parity.status", "not_run", "no result"),
        ("parity.status", "below", "140.0 dB and the gate of 70 dB say otherwise"),
        ("parity.psnr_db", 69.9, "69.9 dB and the gate of 70 dB say otherwise"),
        ("parity.within_tolerance", None, "do not go together"),
        ("parity.max_error", None, "do not go together"),
        ("parity.delta", {"gain": 1.0, "cosine": 1.0}, r"\$.parity.delta"),
        ("parity.delta", {"gain": "all", "cosine": 1.0, "snr_db": 1.0}, r"\$.parity.delta"),
        ("kind", "estimated", "do not go together"),
        ("estimate", ESTIMATE, "do not go together"),
        ("artifact.sha256", "G" * 64, r"\$.artifact.sha256"),
        ("device.cores", 0, r"\$.device.cores"),
        ("started_at", "yesterday", r"\$.started_at"),
        ("extra", 1, "extra"),
        ("device.model", "x\ud800", r"\$.device.model"),
        ("notes", ["\ud800"], r"\$.notes\[0\]"),
        ("load.cold_s", 10**400, r"\$.load.cold_s"),
        ("runs.samples_s", [0.25, 0.5, 10**400], r"\$.runs.samples_s\[2\]"),
        ("memory.peak_bytes", 10**400, r"\$.memory.peak_bytes"),
    ],
)
def test_wrong_records_are_refused(path: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_record(changed(path, value), "r.json")


def test_a_run_below_a_bound_is_a_record() -> None:
    """The device gate and the bundle's tolerance are told apart, and neither withholds the times."""
    nothing = {"gain": 0.0, "cosine": None, "snr_db": 0.0}
    for record in (
        of_a_unet(),
        of_a_unet(psnr_db=None, max_error=0.0, delta={"gain": 1.0, "cosine": 1.0, "snr_db": None}),
        of_a_unet(psnr_db=54.0, within_tolerance=False),
        of_a_unet(psnr_db=49.9, status="below", within_tolerance=False),
        of_a_unet(within_tolerance=False, delta=nothing),
    ):
        assert check_record(record, "r.json") == record
    with pytest.raises(InputError, match=r"its parity is passed, but 49.9 dB and the gate of 50 dB say otherwise"):
        check_record(of_a_unet(psnr_db=49.9), "r.json")


def test_the_gate_of_every_precision() -> None:
    assert DEVICE_GATES_DB == {"fp32": 70, "fp16": 50, "w8": 40, "w6": 30, "w4": 25}
    for precision, gate in DEVICE_GATES_DB.items():
        assert (gate_status(precision, gate), gate_status(precision, gate - 0.1)) == ("passed", "below")
        assert gate_status(precision, None) == "passed"


def test_parity_is_that_of_the_worst_output() -> None:
    allowed = Tolerance(60.0, 0.01, DeltaTolerance(gain_error=0.01, cosine=0.999))
    delta = Delta(gain=0.995, cosine=0.9999, snr_db=np.inf)
    good = OutputDifference("noise_pred", np.inf, 0.0, 0.0, delta)
    told = {"gain": 0.995, "cosine": 0.9999, "snr_db": None}
    equal = {"status": "passed", "within_tolerance": True, "psnr_db": None, "max_error": 0.0, "delta": told}
    assert parity([good], allowed, "fp16") == equal
    worse = replace(good, psnr_db=54.0, max_error=0.02)
    assert parity([good, worse], allowed, "fp16") == equal | {
        "within_tolerance": False,
        "psnr_db": 54.0,
        "max_error": 0.02,
    }
    lost = replace(good, delta=replace(delta, gain=0.5, cosine=np.nan))
    assert parity([lost], allowed, "fp16") == equal | {
        "within_tolerance": False,
        "delta": {"gain": 0.5, "cosine": None, "snr_db": None},
    }


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
