"""Time one step of a UNet, with adapter inputs and with the LoRA fused into the weights instead."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import run_module
from benchmarks.timing import Case, OnCase, RunSettings, Samples, case_times, document_head, measure_cases
from lorarar.errors import InputError
from lorarar.files import atomic_file, read_json
from runtime_py.backends import open_runner
from runtime_py.bundle import MANIFEST, Bundle
from runtime_py.golden import golden_inputs

LIMIT = 10.0  # per cent that adapter inputs may cost through ONNX Runtime
ADAPTER, FUSED = "adapter", "fused"
OPTIONS = "unet.json"  # in a folder of exported UNets: the options that they were exported with


class UNetExport(NamedTuple):
    """The UNet that is exported for a case; None leaves a value to the base or to the export's default."""

    base: str
    untrained: bool = False
    rank: int | None = None  # of one LoRA; the adapter's is twice that
    resolution: int | None = None  # pixels
    batch: int = 1

    def options(self) -> list[str]:
        """Return the options of `export.unet`, but for the rank, which a fused UNet does not have."""
        given = ["--base", self.base, "--batch", str(self.batch)]
        given += ["--untrained"] if self.untrained else []
        return given + (["--resolution", str(self.resolution)] if self.resolution is not None else [])


def measure_unets(
    unet: UNetExport, cases: Sequence[tuple[str, str]], settings: RunSettings, folder: Path, progress: OnCase
) -> dict[str, Any]:
    """Export what `folder` lacks, run every case in turn, and return the document.

    `cases` are pairs of a target and a precision; each is run with adapter inputs and fused. Raises InputError for a
    folder whose UNets were exported with other options.
    """
    _check_folder(unet, folder)
    bundles: dict[str, Bundle] = {}
    for target, precision in cases:
        for kind in (ADAPTER, FUSED):
            name = f"{target} {precision} {kind}"
            progress(f"exporting {name}", 0, None)
            bundles[name] = _bundle(unet, target, precision, kind, folder)
    todo: dict[str, Case] = {}
    for name, bundle in bundles.items():
        progress(f"loading {name}", 0, None)
        todo[name] = _case(bundle, settings.threads)
    machine, samples = measure_cases(todo, settings.runs, progress)
    first = next(iter(bundles.values()))
    sample = next(spec for spec in first.component("unet").inputs if spec.name == "sample")
    return {
        **document_head("unet", first.manifest["base"], settings),
        "merged_rank": 2 * first.rank,
        "sample": list(sample.shape),
        **machine.record(samples["sgemm"]),
        "cases": [_record(name, samples[name], bundles[name]) for name in bundles],
        "costs": costs(samples),
    }


def _check_folder(unet: UNetExport, folder: Path) -> None:
    """Refuse a folder whose UNets were exported with other options."""
    path = folder / OPTIONS
    if path.is_file():
        mend = "choose another folder of `bundles`"
        before = read_json(path, what="how UNets were exported", mend=mend, schema={"type": "object"})
        for name, value in unet._asdict().items():
            if before.get(name) != value:
                raise InputError(f"{folder}: its UNets were exported with `{name}` {before.get(name)}; {mend}")


def _bundle(unet: UNetExport, target: str, precision: str, kind: str, folder: Path) -> Bundle:
    """Open the UNet of one case, exported now or before; the fused one has a random LoRA added into its weights."""
    out = folder / f"{kind}-{target}-{precision}"
    if (out / MANIFEST).is_file():
        return Bundle.open(out)
    given = ["--target", target, "--precision", precision, *unet.options(), "--out", str(out)]
    rank = ["--rank", str(unet.rank)] if unet.rank is not None else []
    if kind == FUSED:
        lora = folder / "random.safetensors"
        random = ["--base", unet.base, *rank, "--strength", "0.01", "-o", str(lora)]
        run_module("lorarar.commands.synthetic", *random)
        given += ["--fused", str(lora)]
    else:
        given += rank
    run_module("export.unet", *given)  # as users export it, checked against PyTorch
    with atomic_file(folder / OPTIONS) as temporary:
        temporary.write_text(json.dumps(unet._asdict()) + "\n", encoding="utf-8")
    return Bundle.open(out)


def _case(bundle: Bundle, threads: int) -> Case:
    """Return one step on golden inputs that are in memory already."""
    inputs, runner = golden_inputs(bundle.component("unet")), open_runner(bundle, "unet", threads)
    return lambda: runner.run(inputs)


def _record(name: str, samples: Samples, bundle: Bundle) -> dict[str, Any]:
    entry = bundle.manifest["components"]["unet"]
    facts = {"bytes": entry["bytes"], "sha256": entry["sha256"], "psnr_db": entry["parity"]["psnr_db"]}
    return case_times(name, samples) | facts


def costs(samples: Mapping[str, Samples]) -> list[dict[str, Any]]:
    """Return what adapter inputs cost in each target and precision, from medians; the goal is ONNX Runtime's alone."""
    found = []
    for name, adapter in samples.items():
        case, _, kind = name.rpartition(" ")
        if kind == ADAPTER:
            cost = (adapter.median / samples[f"{case} {FUSED}"].median - 1) * 100
            limited = case.startswith("onnx")
            entry: dict[str, Any] = {"case": case, "cost_percent": cost}
            found.append(entry | ({"limit_percent": LIMIT, "passed": cost <= LIMIT} if limited else {}))
    return found
