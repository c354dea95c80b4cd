"""Run a bundle's artifacts on their golden inputs and compare them with PyTorch's outputs."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lorarar.errors import InputError
from lorarar.layout import ADAPTER, COEFFICIENTS, ROLES
from runtime_py.backends import Runner, Runners, ways_to_run
from runtime_py.component import Golden, read_golden
from runtime_py.golden import golden_inputs, sample
from runtime_py.parity import (
    Delta,
    OutputDifference,
    Parity,
    Tolerance,
    compare_delta,
    compare_golden,
    explain_nulls,
    worst_delta,
)
from runtime_py.pipeline import Inputs, NotFinite, Pipeline, Request, rescale_of

if TYPE_CHECKING:
    from runtime_py.bundle import Bundle

OnText = Callable[[str], None]
"""Called with what is being done."""


@dataclass(frozen=True)
class CheckRow:
    """One component in one runtime: its worst output, or why it was not run."""

    component: str
    runtime: str
    runtime_version: str
    status: str  # passed | failed | not_run
    reason: str
    outputs: tuple[OutputDifference, ...]
    tolerance: Tolerance
    load_s: float = 0.0
    run_s: float = 0.0

    @property
    def worst(self) -> OutputDifference | None:
        """The output that is farthest off."""
        return max(self.outputs, key=lambda d: (d.max_error, -d.psnr_db), default=None)

    @property
    def psnr_db(self) -> float | None:
        """The smallest PSNR of all outputs."""
        return min((d.psnr_db for d in self.outputs), default=None)

    @property
    def delta(self) -> Delta | None:
        """What the LoRAs change, of a component that takes any: of the output that is farthest off."""
        return worst_delta(self.outputs)

    def parity(self) -> Parity:
        """Return this row as the manifest records it."""
        host = f"{platform.system()} {platform.machine()}"
        worst = max((d.max_abs for d in self.outputs), default=None)
        return Parity(
            self.status, self.reason, self.psnr_db, worst, self.delta, self.runtime, self.runtime_version, host
        )

    def to_json(self) -> dict[str, Any]:
        """Return this row as JSON: infinite numbers become null, which the reason then explains."""
        data = asdict(self)
        errors = [number for output in self.outputs for number in (output.max_error, output.max_abs)]
        psnrs, deltas = [output.psnr_db for output in self.outputs], [output.delta for output in self.outputs]
        data["reason"] = explain_nulls(self.reason, psnrs, errors, deltas)
        for entry in data["outputs"]:
            for numbers in (entry, entry["delta"] or {}):
                for key, value in numbers.items():
                    if isinstance(value, float) and not np.isfinite(value):
                        numbers[key] = None
        return data


def check_bundle(bundle: Bundle, on_text: OnText = lambda _: None) -> list[CheckRow]:
    """Check every component of a bundle, and the whole pipeline where there is one."""
    rows = [row for name in bundle.manifest["components"] for row in check_component(bundle, name, on_text)]
    return [*rows, check_pipeline(bundle, on_text)] if "pipeline" in bundle.manifest else rows


def check_component(bundle: Bundle, name: str, on_text: OnText = lambda _: None) -> list[CheckRow]:
    """Run one component every way this machine can.

    A row is `not_run` where the toolchain is missing, or where the runtime refuses the artifact or a run of it.
    """
    component = bundle.component(name)
    allowed, golden = component.tolerance, component.golden()
    inputs: dict[str, np.ndarray] = {}
    rows: list[CheckRow] = []
    try:
        ways = ways_to_run(bundle, name)
    except InputError as error:
        return [CheckRow(name, "", "", "not_run", str(error), (), allowed)]
    for load in ways:
        on_text(f"{name}: loading")
        start = time.perf_counter()
        try:
            runner = load()
        except InputError as error:
            rows.append(CheckRow(name, "", "", "not_run", str(error), (), allowed))
            continue
        load_s = time.perf_counter() - start
        # Not before: a runner refuses sizes that are not its artifact's, and nothing of such a size is allocated.
        inputs = inputs or golden_inputs(component)
        on_text(f"{name}: running in {runner.runtime}")
        start = time.perf_counter()
        try:
            outputs = runner.run(inputs)
            run_s = time.perf_counter() - start
            found = compare_with_golden(golden, runner, inputs, outputs)
        except InputError as error:
            rows.append(CheckRow(name, runner.runtime, runner.version, "not_run", str(error), (), allowed, load_s))
        else:
            rows.append(_row(name, _facts(runner), allowed, found, load_s, run_s))
    return rows


def compare_with_golden(
    golden: Golden, runner: Runner, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
) -> tuple[OutputDifference, ...]:
    """Compare a run on golden inputs with PyTorch's, and what LoRAs change in it by one more run without them.

    Raises InputError where the runtime refuses that run.
    """
    found = tuple(compare_golden(key, kept, outputs[key]) for key, kept in golden.outputs.items())
    if not golden.without or not all(np.isfinite(difference.max_error) for difference in found):
        return found
    off = {name: np.zeros_like(value) for name, value in inputs.items() if name.startswith(COEFFICIENTS)}
    base = runner.run({**inputs, **off})

    def delta(name: str) -> Delta:
        values = golden.outputs[name]["values"]
        return compare_delta(values, golden.without[name], sample(outputs[name]), sample(base[name]))

    return tuple(replace(difference, delta=delta(difference.output)) for difference in found)


def check_pipeline(bundle: Bundle, on_text: OnText = lambda _: None) -> CheckRow:
    """Draw the golden image with the bundle alone, in the runtimes nearest to a device, and compare with diffusers'."""
    golden = bundle.manifest["pipeline"]["golden"]
    allowed = Tolerance.from_json(golden["tolerance"])
    expected = read_golden(bundle.path / golden["file"], ["image"]).outputs
    inputs: dict[str, np.ndarray] = {}
    for name in (*bundle.manifest["pipeline"]["tokenizers"], "unet"):
        inputs |= golden_inputs(bundle.component(name))
    stack = {name: value for name, value in inputs.items() if name == ROLES or name.startswith(ADAPTER)}
    # Of the first image alone, as diffusers' image has them for both prompts.
    blend = {name: value[0] for name, value in inputs.items() if name.startswith(COEFFICIENTS)}
    told = {name: golden[name] for name in ("prompt", "seed", "steps", "guidance")}
    request = Request(**told, guidance_rescale=rescale_of(golden))
    runners = _Watched(bundle)
    start = time.perf_counter()
    try:
        (drawn,) = Pipeline(bundle, runners).draw(
            request, Inputs(stack, [blend]), lambda stage, done, total: on_text(f"pipeline: {stage} {done}/{total}")
        )
    except NotFinite as error:
        return CheckRow("pipeline", *runners.unet[:2], "failed", str(error), (), allowed)
    except InputError as error:
        return CheckRow("pipeline", "", "", "not_run", str(error), (), allowed)
    load_s = drawn.seconds["load the UNet"]
    run_s = time.perf_counter() - start - load_s
    found = tuple(compare_golden(key, kept, drawn.pixels) for key, kept in expected.items())
    return _row("pipeline", runners.unet, allowed, found, load_s, run_s)


@dataclass
class _Watched(Runners):
    """Runners that keep nothing loaded, as on a phone, and remember what the UNet ran in."""

    unet: tuple[str, str, str] = ("", "", "")

    def __call__(self, name: str) -> Runner:
        found = super().__call__(name)
        if name == "unet":
            self.unet = _facts(found)
        return found


def _facts(runner: Runner) -> tuple[str, str, str]:
    return runner.runtime, runner.version, runner.note


def _row(
    name: str,
    facts: tuple[str, str, str],
    allowed: Tolerance,
    found: tuple[OutputDifference, ...],
    load_s: float,
    run_s: float,
) -> CheckRow:
    runtime, version, note = facts
    passed = all(difference.within(allowed) for difference in found)
    reason = note if passed else _why(found, allowed)
    return CheckRow(name, runtime, version, "passed" if passed else "failed", reason, found, allowed, load_s, run_s)


def _why(differences: Sequence[OutputDifference], tolerance: Tolerance) -> str:
    bad = [d for d in differences if not d.within(tolerance)]
    worst = max(bad, key=lambda d: (d.max_error, -d.psnr_db))
    allowed = tolerance.delta
    if worst.within(replace(tolerance, delta=None)) and worst.delta is not None and allowed is not None:
        return (
            f"the LoRAs' effect on {worst.output} has gain {worst.delta.gain:.4f} and cosine {worst.delta.cosine:.4f}; "
            f"allowed are 1 ± {allowed.gain_error:g} and {allowed.cosine:g}"
        )
    return (
        f"{worst.output} differs by {worst.max_error:.2g} of its largest value, {worst.psnr_db:.1f} dB; "
        f"allowed are {tolerance.max_error:g} and {tolerance.psnr_db:g} dB"
    )


@dataclass(frozen=True)
class CheckTable:
    """The rows of a check as texts, for a command to print."""

    title: str
    columns: tuple[str, ...]
    left: tuple[str, ...]  # the columns that hold no numbers
    rows: list[tuple[str, ...]]
    notes: list[str]  # what stands below, one sentence each


def check_table(bundle: Bundle, rows: Sequence[CheckRow]) -> CheckTable:
    """Make the parity table: one line a component and runtime, and every reason once."""
    manifest, stack = bundle.manifest, bundle.stack
    network = manifest.get("hypernetwork")
    notes = [f"hypernetwork: {network['source']}, k/v rule {network['kv_rule']}"] if network else []
    return CheckTable(
        " · ".join(
            [
                *(manifest[key] for key in ("base", "target", "precision")),
                f"{stack.loras} LoRAs, rank {stack.rank} in all",
            ]
        ),
        ("component", "runtime", "PSNR dB", "largest error", "LoRAs: gain, cosine", "load s", "run s", "status"),
        ("component", "runtime", "status"),
        [_texts(row) for row in rows],
        [*notes, *dict.fromkeys(row.reason for row in rows if row.reason)],
    )


def _texts(row: CheckRow) -> tuple[str, ...]:
    worst = row.worst
    return (
        row.component,
        row.runtime or "–",
        f"{row.psnr_db:.1f} ≥ {row.tolerance.psnr_db:g}" if row.psnr_db is not None else "–",
        f"{worst.max_error:.1e} ≤ {row.tolerance.max_error:g}" if worst else "–",
        f"{row.delta.gain:.4f}, {row.delta.cosine:.4f}" if row.delta else "–",
        f"{row.load_s:.2f}",
        f"{row.run_s:.2f}",
        {"passed": "passed", "failed": "FAILED", "not_run": "NOT RUN"}[row.status],
    )
