"""Make a study from an evaluation's run: one image of each method for each pair (paper §4 and A1.2)."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from human_study.definition import QUESTION, SCHEMA_VERSION, STUDY_FILE, clean_png
from human_study.example import BETTER, EXPLANATION, FILES, draw_example
from lorarar.errors import InputError
from lorarar.evaluation.results import PairRecord, read_results
from lorarar.files import atomic_folder, is_utf8, resolved
from lorarar.settings import check_choice

CASES = ("random", "best")


@dataclass(frozen=True)
class Shown:
    """An image that the study shows of a method, and whether MARS² accepts it: subject and style both right."""

    image: Path
    accepted: bool


@dataclass(frozen=True)
class MadeStudy:
    """The study that `make_study` wrote. `without_accepted` has 'pair: method' where the best case found no image."""

    folder: Path
    tasks: int
    without_accepted: tuple[str, ...]


def make_study(
    results: Path, methods: tuple[str, str], case: str, output: Path, seed: int = 0, question: str = QUESTION
) -> MadeStudy:
    """Write a study of two methods into the folder `output`, which must not exist yet or be empty.

    `results` is the folder of a run, or its results.json. The case `random` shows one of a method's images of a
    pair at random; `best` one at random of those that MARS² accepts, and where it accepts none, one at random of all.
    Raises InputError.
    """
    check_choice(CASES, case=case)
    if not question.strip() or not is_utf8(question):
        raise InputError(f"`question` is {question!r}; give words in UTF-8, or leave it out for the usual question")
    if len(set(methods)) != 2:
        raise InputError(f"a study compares two different methods; {methods[0]} was given twice")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: already there, perhaps with answers; choose another output or remove it first")
    pairs = read_results(results).pairs
    run = results if results.is_dir() else results.parent
    # Every pair is looked at before anything is written.
    chosen = _choose(pairs, methods, case, random.Random(seed), run)
    names = [_task_id(pair) for pair in pairs]
    if doubles := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two pairs of these results are called {doubles[0]!r}; give results of pairs that differ")
    with atomic_folder(output) as folder:
        writer = _Writer(folder, run)
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
        for method, shown in images.items()
        if case == "best" and not shown.accepted
    ]
    return MadeStudy(output, len(tasks), tuple(missing))


def _choose(
    pairs: Sequence[PairRecord], methods: tuple[str, str], case: str, generator: random.Random, run: Path
) -> list[dict[str, Shown]]:
    """Choose an image of each method for each pair. The images' paths start at the run's folder."""
    chosen = []
    for pair in pairs:
        images = {}
        for method in methods:
            if method not in pair.methods:
                raise InputError(
                    f"no images of {method} in this run (it has: {', '.join(pair.methods)}); choose two of those, or "
                    f"evaluate with --methods {method}"
                )
            judged = zip(pair.methods[method], pair.verdicts(method).joint.tolist(), strict=True)
            candidates = [Shown(run / record.image, accepted) for record, accepted in judged]
            accepted = [shown for shown in candidates if shown.accepted]
            images[method] = generator.choice(accepted if case == "best" and accepted else candidates)
        chosen.append(images)
    return chosen


def _task_id(pair: PairRecord) -> str:
    return f"{pair.content} in {pair.style}"


class _Writer:
    """Copies each image once into the study's folder, cleaned of metadata; numbered, in the order of first use."""

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self.run = folder, run
        self.copied: dict[Path, str] = {}
        (folder / "images").mkdir()
        (folder / "example").mkdir()

    def task(self, pair: PairRecord, images: dict[str, Shown]) -> dict[str, Any]:
        return {
            "id": _task_id(pair),
            "subject_reference": self._copy(self.run / pair.subject_references[0]),
            "style_reference": self._copy(self.run / pair.style_reference),
            "images": {method: self._copy(shown.image) for method, shown in images.items()},
            "accepted": {method: shown.accepted for method, shown in images.items()},
        }

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
        place = resolved(path)
        if place not in self.copied:
            name = f"images/{len(self.copied):04d}.png"
            (self.folder / name).write_bytes(clean_png(path))
            self.copied[place] = name
        return self.copied[place]
