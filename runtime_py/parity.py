"""Parity: how far a runtime's outputs are from PyTorch's fp32 ones, and whether that is within tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from runtime_py.golden import summarise


@dataclass(frozen=True)
class Tolerance:
    """Least PSNR in dB, and the largest error as a share of the reference's largest value."""

    psnr_db: float
    max_error: float

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Tolerance:
        """Read the manifest's `tolerance` object."""
        return cls(float(entry["psnr_db"]), float(entry["max_error"]))


@dataclass(frozen=True)
class OutputDifference:
    """The measured distance of one output. `max_error` is max|a − ref| / max|ref|; a non-finite value counts as ∞."""

    output: str
    psnr_db: float
    max_error: float
    max_abs: float

    def within(self, tolerance: Tolerance) -> bool:
        """Tell whether the output is close enough."""
        return self.psnr_db >= tolerance.psnr_db and self.max_error <= tolerance.max_error


def psnr_db(reference: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."]) -> float:
    """Return 20·log10(max|ref| / rmse) in dB, as Core ML's and Qualcomm's tools count it; ∞ for equal tensors."""
    error = np.asarray(other, np.float64) - np.asarray(reference, np.float64)
    if not np.isfinite(error).all():
        return -np.inf
    rmse = float(np.sqrt(np.mean(np.square(error)))) if error.size else 0.0
    peak = float(np.abs(reference).max()) if error.size else 0.0
    if rmse == 0:
        return np.inf
    return 20 * float(np.log10(peak / rmse)) if peak else -np.inf


def compare_golden(output: str, golden: Mapping[str, np.ndarray], tensor: np.ndarray) -> OutputDifference:
    """Compare a whole output with what a golden file keeps of it.

    The statistics are held to the same bound as the sampled values: |mean − mean_ref| and |rms − rms_ref| of a layer
    never exceed the largest error of its elements.
    """
    have = summarise(tensor)
    if any(have[key].shape != golden[key].shape for key in ("values", "mean", "rms")):
        return OutputDifference(output, -np.inf, np.inf, np.inf)
    peak = float(np.abs(golden["values"]).max()) if golden["values"].size else 0.0
    worst = max(_largest(have[key], golden[key]) for key in ("values", "mean", "rms"))
    return OutputDifference(output, psnr_db(golden["values"], have["values"]), _ratio(worst, peak), worst)


def _largest(a: np.ndarray, b: np.ndarray) -> float:
    error = np.abs(a.astype(np.float64) - b)
    if not np.isfinite(error).all():
        return np.inf
    return float(error.max()) if error.size else 0.0


def _ratio(error: float, peak: float) -> float:
    if error == 0:
        return 0.0
    return error / peak if peak else np.inf


@dataclass(frozen=True)
class Parity:
    """The manifest's `parity` object."""

    status: str  # passed | failed | not_run
    reason: str
    psnr_db: float | None
    max_abs: float | None
    runtime: str
    runtime_version: str
    host: str

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's object. JSON has no infinity: such a number is null, and the reason explains it."""
        data = asdict(self)
        for key in ("psnr_db", "max_abs"):
            value = data[key]
            data[key] = round(value, 9) if value is not None and np.isfinite(value) else None
        data["reason"] = explain_nulls(self.reason, [self.psnr_db], [self.max_abs])
        return data


def explain_nulls(reason: str, psnrs: Sequence[float | None], errors: Sequence[float | None]) -> str:
    """Return the reason with a sentence for each kind of number that JSON can only write as null.

    `psnrs` are in dB, `errors` the largest ones; None stands for a run that was not made, which `reason` explains.
    """
    told = [reason] if reason else []
    if None in psnrs and not reason:
        told.append("it was not run")
    if np.inf in psnrs:
        told.append("every compared value is PyTorch's: null stands for an infinite PSNR")
    if -np.inf in psnrs or np.inf in errors:
        told.append(
            "an output is not finite, has another shape or should be zero: null stands for an infinite error or a PSNR "
            "of minus infinity"
        )
    return "; ".join(told)
