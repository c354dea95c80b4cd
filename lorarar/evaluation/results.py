"""Write and read `results.json` of a run: every verdict, for the tables to be made again and for the human study.

Its form is `results.schema.json`. Relative paths start at the run's folder. An image's `subject` and `style` are the
verdicts that follow from its P(yes).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.evaluation.judges import THRESHOLD
from lorarar.evaluation.mars2 import PairVerdicts
from lorarar.files import atomic_file, package_schema, read_json

RESULTS_FILE = "results.json"
SCHEMA_VERSION = 1
MAX_JSON = 256 << 20  # bytes; 25 pairs × 8 methods × 10 images take under 2 MiB
# Settings of runs that can be pooled; and what methods may differ in, since it follows from a training or its seed.
_OF_DATA = ("base", "base_digest", "dataset", "files_digest", "split", "part")
_SAME = (*_OF_DATA, "images", "steps", "guidance", "guidance_rescale", "dtype", "embedder")
_OF_A_SEED = ("hypernet", "constants", "seed")
CONTROLS = ("subject_swapped", "style_swapped", "style_image_swapped")


@dataclass(frozen=True)
class MergeFacts:
    """The cost of one merge; None where it could not be measured or means nothing."""

    seconds: float  # from LoRAs in memory to what is put on the UNet
    coefficient_seconds: float | None = None  # the part that predicts or optimises coefficients
    extra_bytes: int | None = None  # the most memory that the merge held beyond what was held before
    parameters: int = 0  # trained numbers that the method needs (ZipLoRA and joint training: for this pair alone)


@dataclass(frozen=True)
class ImageRecord:
    """One generated image and all that was said about it: P(yes) for each subject reference, for the style."""

    image: str
    p_subject: tuple[float, ...]
    p_style: float
    controls: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairRecord:
    """One content and style, with every method's images in the order of the seeds."""

    content: str
    style: str
    prompt: str
    subject_references: tuple[str, ...]
    style_reference: str
    merges: Mapping[str, MergeFacts]
    methods: Mapping[str, tuple[ImageRecord, ...]]

    @property
    def name(self) -> tuple[str, str]:
        return self.content, self.style

    def verdicts(self, method: str) -> PairVerdicts:
        """Return the verdicts of a method, which follow from its P(yes)."""
        images = self.methods[method]
        subject = np.array([image.p_subject for image in images], np.float64).reshape(len(images), -1)
        return PairVerdicts(
            self.content,
            self.style,
            subject > THRESHOLD,
            np.array([image.p_style for image in images], np.float64) > THRESHOLD,
        )


@dataclass(frozen=True)
class MethodInfo:
    """A method as a row of the tables. `kind` is reference, rival, ours or ablation."""

    name: str
    label: str
    kind: str


@dataclass(frozen=True)
class Results:
    """All that a run said and what it was made with."""

    settings: Mapping[str, Any]
    judge: Mapping[str, Any]
    methods: tuple[MethodInfo, ...]
    pairs: tuple[PairRecord, ...]

    def verdicts(self, method: str) -> list[PairVerdicts]:
        """Return the verdicts of a method, pair by pair."""
        return [pair.verdicts(method) for pair in self.pairs]


def pool(runs: Sequence[Results]) -> Results:
    """Put several runs of the same evaluation together, such as one for each seed of the trainings.

    Every pair is there once a run. Raises InputError for runs of other methods, pairs, judges or settings, since only
    seeds and what was trained with them may differ, and for a run that is given twice.
    """
    first, *others = runs
    pairs = {pair.name for pair in first.pairs}
    for number, other in enumerate(others, 2):
        if other in runs[: number - 1]:
            raise InputError(f"run {number} is the same as one before it; give each run once")
        unlike = [name for name in _SAME if first.settings.get(name) != other.settings.get(name)]
        unlike += ["options"] * (_options(first) != _options(other))
        unlike += ["judge"] * (first.judge != other.judge) + ["methods"] * (first.methods != other.methods)
        unlike += ["pairs"] * ({pair.name for pair in other.pairs} != pairs)
        if unlike:
            raise InputError(
                f"run {number} and the first one differ in {', '.join(unlike)}; pool runs that differ in their seeds"
            )
    seeds = [run.settings.get("seed") for run in runs]
    every = tuple(pair for run in runs for pair in run.pairs)
    return Results({**first.settings, "seeds": seeds}, first.judge, first.methods, every)


def _options(run: Results) -> dict[str, dict[str, Any]]:
    """Return the options of a run's methods that its seeds have no part in."""
    every: Mapping[str, Mapping[str, Any]] = run.settings.get("options", {})
    return {
        method: {name: value for name, value in options.items() if name not in _OF_A_SEED}
        for method, options in every.items()
    }


def write_results(results: Results, path: Path) -> None:
    """Write the whole file or nothing."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "settings": results.settings,
        "judge": results.judge,
        "methods": [asdict(method) for method in results.methods],
        "pairs": [_pair_json(pair) for pair in results.pairs],
    }
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read a results file, or the one in a run's folder. Raises InputError for anything that is not one."""
    if path.is_dir():
        path = path / RESULTS_FILE
    data = read_json(
        path,
        what="an evaluation's results",
        mend="give the output folder of a finished  lorarar evaluate  of this release",
        schema=package_schema(__package__, "results.schema.json"),
        limit=MAX_JSON,
    )
    results = Results(
        data["settings"],
        data["judge"],
        tuple(MethodInfo(**entry) for entry in data["methods"]),
        tuple(_pair(entry) for entry in data["pairs"]),
    )
    _check_whole(results, path)
    return results


def _check_whole(results: Results, path: Path) -> None:
    """Refuse results whose parts don't belong together; InputError."""
    names = [method.name for method in results.methods]
    metrics: set[frozenset[str]] = set()
    for place, pair in enumerate(results.pairs):
        if not sorted(names) == sorted(pair.methods) == sorted(pair.merges):
            raise InputError(f"{path}: pairs[{place}] holds other methods than the rest; evaluate again")
        images = [image for found in pair.methods.values() for image in found]
        if {len(image.p_subject) for image in images} != {len(pair.subject_references)}:
            raise InputError(f"{path}: pairs[{place}] needs an answer for each subject reference; evaluate again")
        metrics |= {frozenset(image.metrics) for image in images}
    if len(metrics) > 1:
        raise InputError(f"{path}: some images have other metrics than the rest; evaluate again")


def _pair_json(pair: PairRecord) -> dict[str, Any]:
    methods = {}
    for name, images in pair.methods.items():
        verdicts = pair.verdicts(name)
        methods[name] = [
            {"image": image.image, "subject": bool(subject), "style": bool(style)} | asdict(image)
            for image, subject, style in zip(images, verdicts.subject, verdicts.style_yes, strict=True)
        ]
    return {
        "content": pair.content,
        "style": pair.style,
        "prompt": pair.prompt,
        "references": {"subject": list(pair.subject_references), "style": pair.style_reference},
        "merges": {name: asdict(facts) for name, facts in pair.merges.items()},
        "methods": methods,
    }


def _pair(entry: Mapping[str, Any]) -> PairRecord:
    methods = {
        name: tuple(
            ImageRecord(
                image["image"], tuple(image["p_subject"]), image["p_style"], image["controls"], image["metrics"]
            )
            for image in images
        )
        for name, images in entry["methods"].items()
    }
    return PairRecord(
        entry["content"],
        entry["style"],
        entry["prompt"],
        tuple(entry["references"]["subject"]),
        entry["references"]["style"],
        {name: MergeFacts(**facts) for name, facts in entry["merges"].items()},
        methods,
    )
