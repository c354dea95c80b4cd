"""Making a study from an evaluation's run: one image of each method for each pair (paper §4 and A1.2)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from human_study.definition import QUESTION, SCHEMA_VERSION, STUDY_FILE
from human_study.example import BETTER, EXPLANATION, FILES, draw_example
from human_study.images import clean_png
from human_study.results import Judged, Pair, read_results
from lorarar.errors import InputError
from lorarar.files import atomic_folder

CASES = ("random", "best")


@dataclass(frozen=True)
class Made:
    """What `make_study` wrote. `without_accepted` has 'pair: method' where the best case found no accepted image."""

    folder: Path
    tasks: int
    without_accepted: tuple[str, ...]


def make_study(
    results: Path, methods: tuple[str, str], case: str, output: Path, seed: int = 0, question: str = QUESTION
) -> Made:
    """Write a study of two methods into the folder `output`, which must not exist yet or be empty.

    `random` shows one of a method's images of a pair at random; `best` one at random of those that MARS² accepts, and
    where it accepts none, one at random of all. Raises InputError.
    """
    if case not in CASES:
        raise InputError(f"{case!r} is no case; choose {' or '.join(CASES)}")
    if len(set(methods)) != 2:
        raise InputError(f"a study compares two different methods; {methods[0]} was given twice")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: already there, perhaps with answers; choose another output or remove it first")
    pairs = read_results(results)
    # Every pair is looked at before anything is written.
    chosen = _choose(pairs, methods, case, random.Random(seed))
    with atomic_folder(output) as folder:
        writer = _Writer(folder)
        tasks = [writer.task(pair, images) for pair, images in zip(pairs, chosen, strict=True)]
        study = {
            "schema_version": SCHEMA_VERSION,
            "question": question,
            "case": case,
            "seed": seed,
            "methods": list(methods),
            "example": writer.example(),
            "tasks": tasks,
        }
        (folder / STUDY_FILE).write_text(json.dumps(study, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    missing = [
        f"{pair.content} in {pair.style}: {method}"
        for pair, images in zip(pairs, chosen, strict=True)
        for method, judged in images.items()
        if case == "best" and not judged.accepted
    ]
    return Made(output, len(tasks), tuple(missing))


def _choose(
    pairs: Sequence[Pair], methods: tuple[str, str], case: str, generator: random.Random
) -> list[dict[str, Judged]]:
    chosen = []
    for pair in pairs:
        images = {}
        for method in methods:
            candidates = pair.methods.get(method, ())
            if not candidates:
                had = ", ".join(name for name, found in pair.methods.items() if found) or "none"
                raise InputError(
                    f"{pair.content} in {pair.style}: no images of {method} in this run (it has: {had}); "
                    f"choose two of those, or evaluate with --methods {method}"
                )
            if case == "best" and any(judged.accepted is None for judged in candidates):
                raise InputError(
                    f"{pair.content} in {pair.style}: {method}'s images were not judged; the best case needs "
                    "verdicts: evaluate with a judge, or use --case random"
                )
            accepted = [judged for judged in candidates if judged.accepted]
            images[method] = generator.choice(accepted if case == "best" and accepted else list(candidates))
        chosen.append(images)
    return chosen


class _Writer:
    """Copies each image once into the study's folder, cleaned of metadata; numbered, in the order of first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copied: dict[Path, str] = {}
        (folder / "images").mkdir()
        (folder / "example").mkdir()

    def task(self, pair: Pair, images: dict[str, Judged]) -> dict[str, Any]:
        task: dict[str, Any] = {
            "id": f"{pair.content} in {pair.style}",
            "subject_reference": self._copy(pair.subject_references[0]),
            "style_reference": self._copy(pair.style_reference),
            "images": {method: self._copy(judged.image) for method, judged in images.items()},
        }
        if all(judged.accepted is not None for judged in images.values()):
            task["accepted"] = {method: judged.accepted for method, judged in images.items()}
        return task

    def example(self) -> dict[str, Any]:
        draw_example(self.folder / "example")
        subject, style, *options = (f"example/{name}" for name in FILES)
        return {
            "subject_reference": subject,
            "style_reference": style,
            "options": options,
            "better": BETTER,
            "explanation": EXPLANATION,
        }

    def _copy(self, path: Path) -> str:
        place = path.resolve()
        if place not in self.copied:
            name = f"images/{len(self.copied):04d}.png"
            (self.folder / name).write_bytes(clean_png(path))
            self.copied[place] = name
        return self.copied[place]
