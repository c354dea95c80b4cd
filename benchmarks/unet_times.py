"""Time one step of a UNet: with live coefficients in its attention or its whole transformers, and with a LoRA fused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import run_module
from benchmarks.timing import Case, OnCase, RunSettings, Samples, case_times, document_head, measure_cases
from export.resume import toolchain_versions
from lorarar.base.names import base_files
from lorarar.errors import InputError
from lorarar.files import atomic_file, read_json
from runtime_py.backends import open_runner
from runtime_py.bundle import Bundle
from runtime_py.golden import golden_inputs
from runtime_py.manifest import MANIFEST

FUSED = "fused"
LIMITS = {"attention": 8.0, "transformer": 15.0}
"""What takes LoRAs (a key of lorarar.layout.ADAPT) → per cent that its coefficients may cost in ONNX Runtime."""
OPTIONS = ".lorarar-unet.json"  # in a folder of exported UNets: what they were exported of, and with
RANDOM = ".lorarar-random.safetensors"  # there: the LoRA that is fused
_OTHERS = {"files": "other files of the base", "toolchains": "other versions of the toolchains"}


class UNetExport(NamedTuple):
    """The UNet that is exported for a case; None leaves a value to the base or to the export's default."""

    base: str
    untrained: bool = False
    rank: int | None = None  # of one LoRA; two are stacked
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

    `cases` are pairs of a target and a precision; each is run with live coefficients, in attention and in
    transformers, and fused. Raises InputError for a folder whose UNets were exported with other options.
    """
    _check_folder(unet, folder)
    bundles: dict[str, Bundle] = {}
    for target, precision in cases:
        for kind in (FUSED, *LIMITS):
            name = f"{target} {precision} {kind}"
            progress(f"exporting {name}", 0, None)
            bundles[name] = _bundle(unet, target, precision, kind, folder)
    todo: dict[str, Case] = {}
    for name, bundle in bundles.items():
        progress(f"loading {name}", 0, None)
        todo[name] = _case(bundle, settings.threads)
    machine, samples = measure_cases(todo, settings.runs, progress)
    *_, live = bundles.values()
    sample = next(spec for spec in live.component("unet").inputs if spec.name == "sample")
    return {
        **document_head("unet", live.manifest["base"], settings),
        "stacked_rank": live.stack.rank,
        "sample": list(sample.shape),
        **machine.record(samples["sgemm"]),
        "cases": [_record(name, samples[name], bundles[name]) for name in bundles],
        "costs": costs(samples),
    }


def _check_folder(unet: UNetExport, folder: Path) -> None:
    """Refuse a folder whose UNets were exported with other options, or no one knows how; note those of a new one."""
    path, mend = folder / OPTIONS, "choose another folder of `bundles`"
    asked = {**unet._asdict(), "files": _files_of(unet.base), "toolchains": toolchain_versions()}
    if next(folder.glob(f"*/{MANIFEST}"), None) is None:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(asked) + "\n", encoding="utf-8")
        return
    before = read_json(path, what="how UNets were exported", mend=mend, schema={"type": "object"})
    for name, value in asked.items():
        if before.get(name) != value:
            told = _OTHERS.get(name, f"`{name}` {before.get(name)}")
            raise InputError(f"{folder}: its UNets were exported with {told}; {mend}")


def _files_of(base: str) -> list[list[Any]]:
    """List the files of a base's UNet with their sizes and times, to notice a change; none of a hub's."""
    found = [(path, path.stat()) for path in sorted(base_files(base, ["unet"]))]
    return [[str(path.resolve()), about.st_size, about.st_mtime_ns] for path, about in found]


def _bundle(unet: UNetExport, target: str, precision: str, kind: str, folder: Path) -> Bundle:
    """Open the UNet of one case, exported now or before; the fused one has a random LoRA added into its weights."""
    out = folder / f"{kind}-{target}-{precision}"
    if (out / MANIFEST).is_file():
        return Bundle.open(out)
    given = ["--target", target, "--precision", precision, *unet.options(), "--out", str(out)]
    rank = ["--rank", str(unet.rank)] if unet.rank is not None else []
    if kind == FUSED:
        lora = folder / RANDOM
        random = ["--base", unet.base, *rank, "--strength", "0.01", "-o", str(lora)]
        run_module("lorarar.commands.synthetic", *random)
        given += ["--fused", str(lora)]
    else:
        given += ["--adapt", kind, *rank]
    run_module("export.unet", *given)  # as users export it, checked against PyTorch
    return Bundle.open(out)


def _case(bundle: Bundle, threads: int) -> Case:
    """Return one step on golden inputs that are in memory already."""
    inputs, runner = golden_inputs(bundle.component("unet")), open_runner(bundle, "unet", threads)
    return lambda: runner.run(inputs)


def _record(name: str, samples: Samples, bundle: Bundle) -> dict[str, Any]:
    entry = bundle.manifest["components"]["unet"]
    facts = {
        "bytes": entry["bytes"],
        "sha256": entry["sha256"],
        "psnr_db": entry["parity"]["psnr_db"],
        "delta": entry["parity"]["delta"],
    }
    return case_times(name, samples) | facts


def costs(samples: Mapping[str, Samples]) -> list[dict[str, Any]]:
    """Return what live coefficients cost in each target and precision, by medians; the goal is ONNX Runtime's alone."""
    found = []
    for name, live in samples.items():
        case, _, kind = name.rpartition(" ")
        if kind in LIMITS:
            cost, limit = (live.median / samples[f"{case} {FUSED}"].median - 1) * 100, LIMITS[kind]
            entry: dict[str, Any] = {"case": name, "cost_percent": cost}
            found.append(entry | ({"limit_percent": limit, "passed": cost <= limit} if case.startswith("onnx") else {}))
    return found
