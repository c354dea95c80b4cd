"""Run a bundle's artifacts on their golden inputs and compare with PyTorch's outputs.

    lorarar check BUNDLE [--json FILE]

Prints a table. Exits 1 when a part is out of tolerance or could not be run, 2 when the bundle is damaged.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lorarar.command_line import EXIT_FAILED_CHECK, EXIT_OK, Parser, run_command
from lorarar.errors import InputError
from lorarar.files import atomic_file
from runtime_py.bundle import Bundle, Component, read_golden
from runtime_py.golden import golden_input
from runtime_py.parity import Difference, Parity, Tolerance, compare_golden
from runtime_py.precisions import offer


@dataclass(frozen=True)
class CheckRow:
    """One component in one runtime: its worst output, or why it was not run."""

    component: str
    runtime: str
    runtime_version: str
    status: str  # passed | failed | not_run
    reason: str
    outputs: tuple[Difference, ...]
    tolerance: Tolerance
    load_s: float
    run_s: float

    @property
    def worst(self) -> Difference | None:
        return max(self.outputs, key=lambda d: (d.max_error, -d.psnr_db), default=None)

    @property
    def psnr_db(self) -> float | None:
        return min((d.psnr_db for d in self.outputs), default=None)

    def parity(self) -> Parity:
        """This row as the manifest records it."""
        host = f"{platform.system()} {platform.machine()}"
        worst = max((d.max_abs for d in self.outputs), default=None)
        return Parity(self.status, self.reason, self.psnr_db, worst, self.runtime, self.runtime_version, host)


def golden_inputs(component: Component) -> dict[str, np.ndarray]:
    """The component's golden inputs, generated in the types it takes."""
    dtypes = {spec.name: spec.dtype for spec in component.inputs}
    return {name: golden_input(spec, dtypes[name]) for name, spec in component.golden_inputs.items()}


def check_component(bundle: Bundle, name: str, progress: Callable[[str], None] = lambda _: None) -> list[CheckRow]:
    """Run one component every way this machine can; a toolchain that is missing makes a `not_run` row."""
    from runtime_py.backends import open_sessions

    component = bundle.component(name)
    expected = component.golden_outputs()
    inputs: dict[str, np.ndarray] = {}
    sessions = open_sessions(bundle, name)
    rows: list[CheckRow] = []
    while True:
        progress(f"{name}: loading")
        start = time.perf_counter()
        try:
            session = next(sessions, None)
        except InputError as error:
            return [*rows, CheckRow(name, "", "", "not_run", str(error), (), component.tolerance, 0.0, 0.0)]
        if session is None:
            return rows
        ready = time.perf_counter()
        # Only now: a session refuses sizes that are not its artifact's, before they are allocated.
        inputs = inputs or golden_inputs(component)
        loaded = time.perf_counter()
        progress(f"{name}: running in {session.runtime}")
        outputs = session.run(inputs)
        done = time.perf_counter()
        differences = tuple(compare_golden(key, expected[key], outputs[key]) for key in expected)
        passed = all(difference.within(component.tolerance) for difference in differences)
        rows.append(
            CheckRow(
                name,
                session.runtime,
                session.version,
                "passed" if passed else "failed",
                session.note if passed else _why(differences, component.tolerance),
                differences,
                component.tolerance,
                ready - start,
                done - loaded,
            )
        )


def check_pipeline(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> CheckRow:
    """Draw the golden image with the bundle alone, in the runtimes nearest to a device, and compare with diffusers'."""
    from runtime_py.backends import open_session
    from runtime_py.pipeline import Pipeline, Request

    golden = bundle.manifest["pipeline"]["golden"]
    allowed = Tolerance(float(golden["tolerance"]["psnr_db"]), float(golden["tolerance"]["max_error"]))
    expected = read_golden(bundle.path / golden["file"], ["image"])["image"]
    unet = bundle.component("unet")
    adapter = {name: value for name, value in golden_inputs(unet).items() if name.startswith("adapter_")}
    request = Request(golden["prompt"], golden["seed"], golden["steps"], golden["guidance"])
    start = time.perf_counter()
    try:
        session = open_session(bundle, "unet")
        ready = time.perf_counter()
        pipeline = Pipeline(bundle, sessions={"unet": session})
        drawn = pipeline.draw(
            request, adapter, lambda stage, done, total: progress(f"pipeline: {stage} {done}/{total}")
        )
    except InputError as error:
        return CheckRow("pipeline", "", "", "not_run", str(error), (), allowed, 0.0, 0.0)
    done = time.perf_counter()
    difference = compare_golden("image", expected, drawn.pixels)
    passed = difference.within(allowed)
    reason = session.note if passed else _why([difference], allowed)
    status = "passed" if passed else "failed"
    rows = (difference,)
    return CheckRow(
        "pipeline", session.runtime, session.version, status, reason, rows, allowed, ready - start, done - ready
    )


def check_bundle(bundle: Bundle, progress: Callable[[str], None] = lambda _: None) -> list[CheckRow]:
    """Check every component of a bundle, and the whole pipeline where there is one."""
    rows = [row for name in bundle.manifest["components"] for row in check_component(bundle, name, progress)]
    return [*rows, check_pipeline(bundle, progress)] if "pipeline" in bundle.manifest else rows


def _why(differences: Sequence[Difference], tolerance: Tolerance) -> str:
    bad = [d for d in differences if not d.within(tolerance)]
    worst = max(bad, key=lambda d: (d.max_error, -d.psnr_db))
    return (
        f"{worst.output} differs by {worst.max_error:.2g} of its largest value, {worst.psnr_db:.1f} dB; "
        f"allowed are {tolerance.max_error:g} and {tolerance.psnr_db:g} dB"
    )


def print_table(bundle: Bundle, rows: Sequence[CheckRow]) -> None:
    """The parity table, one line a component and runtime."""
    from rich.console import Console
    from rich.table import Table

    manifest = bundle.manifest
    network = manifest.get("hypernetwork")
    table = Table(
        title=f"{manifest['base']} · {manifest['target']} · {manifest['precision']} · rank {bundle.rank}",
        caption=f"hypernetwork: {network['source']}, k/v rule {network['kv_rule']}" if network else None,
    )
    for column in ("component", "runtime", "PSNR dB", "largest error", "load s", "run s", "status"):
        table.add_column(column, justify="left" if column in ("component", "runtime", "status") else "right")
    for row in rows:
        worst = row.worst
        table.add_row(
            row.component,
            row.runtime or "–",
            f"{row.psnr_db:.1f} ≥ {row.tolerance.psnr_db:g}" if row.psnr_db is not None else "–",
            f"{worst.max_error:.1e} ≤ {row.tolerance.max_error:g}" if worst else "–",
            f"{row.load_s:.2f}",
            f"{row.run_s:.2f}",
            {"passed": "[green]passed", "failed": "[red]FAILED", "not_run": "[yellow]NOT RUN"}[row.status],
        )
    console = Console()
    console.print(table)
    for reason in dict.fromkeys(row.reason for row in rows if row.reason):
        console.print(f"  {reason}", style="dim", highlight=False)
    if "unet" in manifest["components"]:
        console.print(offer(manifest["target"]), style="dim", highlight=False)


def rows_to_json(rows: Sequence[CheckRow]) -> list[dict[str, object]]:
    """Rows as JSON: an infinite PSNR (equal tensors) becomes null."""
    data = [asdict(row) for row in rows]
    for entry in data:
        for output in entry["outputs"]:
            for key in ("psnr_db", "max_error", "max_abs"):
                output[key] = output[key] if np.isfinite(output[key]) else None
    return data


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="lorarar check", description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle", type=Path, help="the folder that python -m export.hypernet made")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(argv)

    from rich.console import Console

    console = Console(stderr=True)
    with console.status("opening") as status:
        bundle = Bundle.open(options.bundle)
        rows = check_bundle(bundle, status.update)
    print_table(bundle, rows)
    if options.json is not None:
        with atomic_file(options.json) as temporary:
            temporary.write_text(json.dumps(rows_to_json(rows), indent=2) + "\n", encoding="utf-8")
    return EXIT_OK if rows and all(row.status == "passed" for row in rows) else EXIT_FAILED_CHECK


if __name__ == "__main__":
    run_command(main)
