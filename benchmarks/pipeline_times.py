"""Time text to image through several bundles in turn: stacking, merging, text, loading, steps, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import require_timed_here
from benchmarks.timing import Case, OnCase, RunSettings, Samples, case_times, document_head, measure_cases
from lorarar.errors import InputError
from lorarar.lora import LoRA
from runtime_py.bundle import Bundle
from runtime_py.pipeline import Pipeline, Request
from runtime_py.stages import timed

STAGES = ("stack", "merge", "text", "load the UNet", "steps", "decode")


def open_bundles(paths: Sequence[Path]) -> dict[str, Bundle]:
    """Open the bundles, by what names them in the table.

    Raises InputError for one that can't draw or can't be timed here, and for two of one name.
    """
    found: dict[str, Bundle] = {}
    for path in paths:
        bundle = Bundle.open(path)
        Pipeline(bundle)  # says what a bundle without a pipeline is missing
        require_timed_here(bundle.manifest["target"], str(path))
        name = " ".join(bundle.manifest[key] for key in ("base", "target", "precision"))
        if name in found:
            raise InputError(f"{path} and {found[name].path} are both {name}; give one of them")
        found[name] = bundle
    return found


def measure_pipelines(
    bundles: Mapping[str, Bundle],
    requests: Mapping[str, Request],
    loras: Sequence[LoRA],
    settings: RunSettings,
    progress: OnCase,
) -> dict[str, Any]:
    """Draw each bundle's request in turn and return the document; `loras` are a content and a style, or none."""
    times: dict[str, list[dict[str, float]]] = {name: [] for name in bundles}
    cases = {
        name: _case(bundle, loras, requests[name], settings.threads, times[name]) for name, bundle in bundles.items()
    }
    machine, samples = measure_cases(cases, settings.runs, progress)
    first = next(iter(bundles.values()))
    return {
        **document_head("pipeline", first.manifest["base"], settings),
        "prompt": next(iter(requests.values())).prompt,
        "merged_pair": bool(loras),
        **machine.record(samples["sgemm"]),
        # The first image of each is the warm-up, which interleave doesn't time.
        "cases": [_record(name, times[name][1:], requests[name], bundles[name]) for name in bundles],
    }


def _case(bundle: Bundle, loras: Sequence[LoRA], request: Request, threads: int, times: list[dict[str, float]]) -> Case:
    """Return the drawing of one image, which adds to `times` the seconds of its stages."""

    def draw() -> object:
        session, seconds = bundle.session(threads, keep=False), dict[str, float]()
        with timed(seconds, "stack"):
            session.load(loras)
        _ = session.carried  # else it is measured in the background meanwhile
        with timed(seconds, "merge"):
            if loras:
                session.merge("learned")
        drawn = session.draw(request)
        times.append(seconds | drawn.seconds)
        return drawn

    return draw


def _record(name: str, times: Sequence[Mapping[str, float]], request: Request, bundle: Bundle) -> dict[str, Any]:
    stages = {stage: median(seconds[stage] for seconds in times) for stage in STAGES}
    return {
        **case_times(name, Samples(tuple(sum(seconds.values()) for seconds in times))),
        "steps": request.steps,
        "guidance": request.guidance,
        "guidance_rescale": request.guidance_rescale,
        "stages_s": stages,
        "step_s": stages["steps"] / request.steps,
        "bytes": bundle.nbytes,
        "image_psnr_db": bundle.manifest["pipeline"]["golden"].get("parity", {}).get("psnr_db"),
    }
