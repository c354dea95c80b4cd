"""Reading `results.json` of a run of `lorarar evaluate`: the images of each pair and method, with their verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarar.errors import InputError

RESULTS_FILE = "results.json"
MAX_JSON = 256 << 20  # bytes; 25 pairs × 8 methods × 10 images take under 1 MiB


@dataclass(frozen=True)
class Judged:
    """One generated image. `accepted` is MARS²'s verdict (subject and style both right), None if it was not judged."""

    image: Path
    accepted: bool | None


@dataclass(frozen=True)
class Pair:
    """One content-style pair: its reference images and every method's images."""

    content: str
    style: str
    subject_references: tuple[Path, ...]
    style_reference: Path
    methods: Mapping[str, tuple[Judged, ...]]


def read_results(run: Path) -> tuple[Pair, ...]:
    """The pairs of RUN/results.json. Relative paths start at RUN. Raises InputError."""
    path = run / RESULTS_FILE
    if not path.is_file():
        raise InputError(f"{run}: no {RESULTS_FILE} there; give the output folder of  lorarar evaluate")
    if path.stat().st_size > MAX_JSON:
        raise InputError(f"{path}: larger than {MAX_JSON >> 20} MiB; this is no evaluation's result")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    pairs = data.get("pairs") if isinstance(data, dict) else None
    if not isinstance(pairs, list) or not pairs:
        raise InputError(f"{path}: no pairs in it; give the output folder of a finished  lorarar evaluate")
    read = []
    for place, entry in enumerate(pairs):
        try:
            read.append(_pair(run, entry))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: pairs[{place}] can't be read ({type(error).__name__}: {error}); evaluate again"
            ) from None
    return tuple(read)


def _pair(run: Path, entry: dict[str, Any]) -> Pair:
    references = entry["references"]
    subjects = tuple(run / str(path) for path in references["subject"])
    if not subjects:
        raise ValueError("no subject reference")
    return Pair(
        content=str(entry["content"]),
        style=str(entry["style"]),
        subject_references=subjects,
        style_reference=run / str(references["style"]),
        methods={
            str(name): tuple(_judged(run, image) for image in images) for name, images in entry["methods"].items()
        },
    )


def _judged(run: Path, entry: dict[str, Any]) -> Judged:
    verdicts = (entry.get("subject"), entry.get("style"))
    accepted = all(verdicts) if all(isinstance(verdict, bool) for verdict in verdicts) else None
    return Judged(run / str(entry["image"]), accepted)
