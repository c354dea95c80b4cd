"""Time merges of one rank: ZipLoRA's steps, the coefficients in three forms, whole mergers, and whole files.

Needs torch; the artifacts' runtimes are imported when they are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import merge_cases as cases
from benchmarks.machine import measure_machine, sgemm_case
from benchmarks.merge_files import measure_files
from benchmarks.merge_work import MergeWork, case_record, footprint, goals
from benchmarks.processes import run_module
from benchmarks.timing import REST, Case, OnCase, RunSettings, interleave
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import Layout


def measure_rank(
    layout: Layout,
    base: str,
    rank: int,
    targets: Sequence[str],
    ziplora_steps: int,
    settings: RunSettings,
    folder: Path,
    progress: OnCase,
) -> dict[str, Any]:
    """Return everything about one rank, as JSON. `folder` is for what is made on the way."""
    widths = tuple(sorted({group.out_features for group in layout.part("qo")}))
    hypernet = Hypernetwork.untrained(HypernetConfig(widths=widths)).requires_grad_(False)
    with torch.inference_mode():
        progress("ZipLoRA", 0, None)
        # First, since it needs the memory.
        zipped = _ziplora(base, rank, ziplora_steps, settings.threads) if ziplora_steps else None
        progress("machine", 0, None)
        machine = measure_machine()
        todo = _cases(hypernet, layout, base, rank, targets, settings.threads, folder, progress)
        samples = interleave(todo, settings.runs, on_run=progress, rest=REST)
        # Its gigabytes would be in the way of the file cache.
        del todo
        progress("files", 0, None)
        files, file_bytes = measure_files(layout, hypernet, rank, folder, settings.runs)
    work = MergeWork.of(layout, rank, hypernet.config.hidden)
    parameters = sum(p.numel() for p in hypernet.parameters())
    return {
        "rank": rank,
        **machine.record(samples["sgemm"]),
        "cases": [case_record(name, case, work, machine) for name, case in samples.items()],
        "files": {
            "merge_s": files["merge"].median,
            "copy_s": files["copy"].median,
            "ratio": files["merge"].median / files["copy"].median,
            "bytes": file_bytes,
        },
        "footprint": footprint(samples, zipped, parameters) if zipped else None,
        "goals": [goal.to_json() for goal in goals(base, rank, samples, work, machine)],
    }


def _cases(
    hypernet: Hypernetwork,
    layout: Layout,
    base: str,
    rank: int,
    targets: Sequence[str],
    threads: int,
    folder: Path,
    progress: OnCase,
) -> dict[str, Case]:
    inputs = cases.random_inputs(layout, rank)
    found = cases.pytorch_cases(hypernet, layout, inputs) | {"sgemm": sgemm_case()}
    for target in targets:
        progress(f"exporting to {target}", 0, None)
        out = folder / f"{target}-{rank}"
        given = ("--target", target, "--base", base, "--untrained", "--rank", str(rank), "--out", str(out))
        run_module("export.hypernet", *given)  # as users export it, checked against PyTorch
        found[target] = cases.artifact_case(target, out, inputs, threads)
    return found


def _ziplora(base: str, rank: int, steps: int, threads: int) -> dict[str, Any]:
    given = ("--base", base, "--rank", str(rank), "--steps", str(steps), "--threads", str(threads))
    found: dict[str, Any] = json.loads(run_module("benchmarks.merge_ziplora", *given).splitlines()[-1])
    return found
