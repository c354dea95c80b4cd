"""Parity: how far a runtime's outputs are from PyTorch's fp32 ones, and whether that is within tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from runtime_py.golden import summarise


@dataclass(frozen=True)
class DeltaTolerance:
    """How far the gain of what LoRAs change may be from 1, and its least cosine."""

    gain_error: float
    cosine: float


@dataclass(frozen=True)
class Tolerance:
    """Least PSNR in dB, and the largest error as a share of the reference's largest value."""

    psnr_db: float
    max_error: float
    delta: DeltaTolerance | None = None  # of a component that takes LoRAs and changes the output by them

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Tolerance:
        """Read the manifest's `tolerance` object."""
        delta = entry.get("delta")
        return cls(float(entry["psnr_db"]), float(entry["max_error"]), DeltaTolerance(**delta) if delta else None)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's object."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Delta:
    """What LoRAs change in an output (with − without), against what they change in PyTorch's."""

    gain: float  # ⟨Δ, Δ_ref⟩ / ‖Δ_ref‖²: 0.5 where half of the LoRAs' effect is lost
    cosine: float
    snr_db: float  # 20·log10(‖Δ_ref‖ / ‖Δ − Δ_ref‖)

    def within(self, tolerance: DeltaTolerance) -> bool:
        """Tell whether the LoRAs' effect is close enough."""
        return abs(self.gain - 1) <= tolerance.gain_error and self.cosine >= tolerance.cosine


def compare_delta(
    reference: Float[np.ndarray, " n"],
    reference_without: Float[np.ndarray, " n"],
    output: Float[np.ndarray, " n"],
    without: Float[np.ndarray, " n"],
) -> Delta:
    """Measure how much of the LoRAs' effect an output has, from sampled values; values not finite give NaN."""
    wanted = reference.astype(np.float64) - reference_without
    have = output.astype(np.float64) - without
    with np.errstate(invalid="ignore", divide="ignore"):
        power, shared = wanted @ wanted, wanted @ have
        rest = np.linalg.norm(have - wanted)
        snr_db = 20 * np.log10(np.sqrt(power) / rest) if rest else np.inf
        return Delta(float(shared / power), float(shared / np.sqrt(power * (have @ have))), float(snr_db))


@dataclass(frozen=True)
class OutputDifference:
    """The measured distance of one output. `max_error` is max|a − ref| / max|ref|; a non-finite value counts as ∞."""

    output: str
    psnr_db: float
    max_error: float
    max_abs: float
    delta: Delta | None = None

    def within(self, tolerance: Tolerance) -> bool:
        """Tell whether the output, and what LoRAs change in it, is close enough."""
        if tolerance.delta is not None and (self.delta is None or not self.delta.within(tolerance.delta)):
            return False
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


def worst_delta(found: Sequence[OutputDifference]) -> Delta | None:
    """Return the delta that is farthest from 1, of outputs that have any; one that is no number is the farthest."""

    def off(delta: Delta) -> float:
        far = max(abs(delta.gain - 1), abs(delta.cosine - 1))
        return far if np.isfinite(delta.gain) and np.isfinite(delta.cosine) else np.inf

    return max((each.delta for each in found if each.delta is not None), key=off, default=None)


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
    delta: Delta | None
    runtime: str
    runtime_version: str
    host: str

    def to_json(self) -> dict[str, Any]:
        """Return the manifest's object. JSON has no infinity: such a number is null, and the reason explains it."""
        data = asdict(self)
        for key in ("psnr_db", "max_abs"):
            value = data[key]
            data[key] = rounded(value)
        data["delta"] = self.delta and {key: rounded(value) for key, value in asdict(self.delta).items()}
        data["reason"] = explain_nulls(self.reason, [self.psnr_db], [self.max_abs], [self.delta])
        return data


def rounded(value: float | None) -> float | None:
    """Return a number as JSON can hold it: to nine digits, and None where it is not finite."""
    return round(value, 9) if value is not None and np.isfinite(value) else None


def explain_nulls(
    reason: str, psnrs: Sequence[float | None], errors: Sequence[float | None], deltas: Sequence[Delta | None]
) -> str:
    """Return the reason with a sentence for each kind of number that JSON can only write as null.

    `psnrs` are in dB, `errors` the largest ones, `deltas` what LoRAs change; None stands for a run that was not made,
    which `reason` explains, and for a component that takes no LoRA.
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
    if any(delta is not None and delta.snr_db == np.inf for delta in deltas):
        told.append("what the LoRAs change is PyTorch's: null stands for an infinite signal-to-noise ratio")
    if any(delta is not None and not np.isfinite([delta.gain, delta.cosine]).all() for delta in deltas):
        told.append("the LoRAs change nothing, or an output is not finite: null stands for no gain or cosine")
    return "; ".join(told)
