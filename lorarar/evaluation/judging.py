"""Put a pair's images before the judge: the verdicts, and the same questions with swapped references."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lorarar.errors import InputError
from lorarar.evaluation.generate import digest_of
from lorarar.evaluation.judges import Judge, Question
from lorarar.evaluation.metrics import Embedder, similarities
from lorarar.evaluation.results import ImageRecord
from lorarar.files import atomic_file, file_digest
from lorarar.images import on_white, open_image
from lorarar.training.dataset import Content, Entry, Style, composed_prompts

if TYPE_CHECKING:
    from PIL.Image import Image

JUDGED_FILE = "judged.json"


class Swap(NamedTuple):
    """The other content and style whose references a pair's controls use; None where the dataset has no other."""

    content: Content | None
    style: Style | None


def next_entry(entry: Entry, part: Iterable[Entry], everything: Mapping[str, Entry]) -> Entry | None:
    """Return the one after `entry` in the evaluated part, else in the dataset; None where there is no other.

    A style of the same description is no other one: its words tell an image of either.
    """
    for entries in (part, everything.values()):
        each = list(dict.fromkeys(entries))
        place = each.index(entry)
        others = [other for other in each[place + 1 :] + each[:place] if _is_apart(entry, other)]
        if others:
            return others[0]
    return None


def _is_apart(entry: Content | Style, other: Content | Style) -> bool:
    return not (isinstance(entry, Style) and isinstance(other, Style) and entry.description == other.description)


def judge_pair(
    judge: Judge, embedder: Embedder | None, images: Mapping[str, Path], content: Content, style: Style, swap: Swap
) -> list[ImageRecord]:
    """Judge every image against every subject reference and the style's; then take the controls and the metrics.

    `images` maps the name of each in the results to its file. Controls, one reference an image: another subject's;
    another style's with its description (the right answer to both is no); another style's image with the right
    description (a judge that looks at the reference answers differently). The prompts and the majority are MARS²'s, the
    paper has no controls.
    """
    tests = [_seen(path) for path in images.values()]
    subjects = [_seen(path) for path in content.images]
    look = _seen(style.images[0])
    asked = [Question(subject, test, content.class_name) for test in tests for subject in subjects]
    said = _said(judge, judge.same_subjects, asked)
    in_style = _said(judge, judge.in_styles, [Question(look, test, style.description) for test in tests])
    swapped = _ask_swapped(judge, tests, content, style, swap)
    text = composed_prompts(content, style)[1]
    metrics = [{} for _ in tests] if embedder is None else similarities(embedder, tests, subjects, look, text)
    return [
        ImageRecord(
            name,
            tuple(said[row * len(subjects) : (row + 1) * len(subjects)]),
            in_style[row],
            {control: values[row] for control, values in swapped.items()},
            metrics[row],
        )
        for row, name in enumerate(images)
    ]


def judge_kept(
    judge: Judge, embedder: Embedder | None, images: Mapping[str, Path], content: Content, style: Style, swap: Swap
) -> list[ImageRecord]:
    """Do as `judge_pair`, but keep the answers in `judged.json` beside the images, and read them from there later.

    Raises InputError for answers that are no chances or not one for each question, and for a metric that is no number.
    """
    path = next(iter(images.values())).parent / JUDGED_FILE
    facts = {
        "judge": judge.describe(),
        "embedder": None if embedder is None else embedder.describe(),
        "images": [file_digest(image) for image in images.values()],
        "references": [file_digest(image) for image in (*content.images, style.images[0])],
        "swapped": [file_digest(image) for entry in swap if entry for image in entry.images],
        "words": [content.class_name, style.description, *([swap.style.description] if swap.style else [])],
    }
    digest = digest_of(facts)
    kept = _read_kept(path, digest, list(images))
    if kept is not None:
        return kept
    judged = judge_pair(judge, embedder, images, content, style, swap)
    for item in judged:
        if not all(map(math.isfinite, item.metrics.values())):
            raise InputError(
                f"{item.image}: what CLIP or DINO says is no number, as where half precision overflows; try it on a "
                "CPU, or another one"
            )
    answers = [{name: value for name, value in asdict(item).items() if name != "image"} for item in judged]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"digest": digest, "images": answers}) + "\n", encoding="utf-8")
    return judged


def _ask_swapped(
    judge: Judge, tests: Sequence[Image], content: Content, style: Style, swap: Swap
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    if swap.content is not None:
        others = [_seen(path) for path in swap.content.images]
        questions = [Question(others[row % len(others)], test, content.class_name) for row, test in enumerate(tests)]
        found["subject_swapped"] = _said(judge, judge.same_subjects, questions)
    if swap.style is not None:
        other = _seen(swap.style.images[0])
        for control, words in (("style_swapped", swap.style), ("style_image_swapped", style)):
            found[control] = _said(judge, judge.in_styles, [Question(other, test, words.description) for test in tests])
    return found


def _said(judge: Judge, ask: Callable[[Sequence[Question]], list[float]], questions: Sequence[Question]) -> list[float]:
    """Ask a judge, which may be anyone's. Raises InputError unless it gives a chance for each question."""
    said = ask(questions)
    if len(said) != len(questions):
        raise InputError(
            f"the judge {judge.name} has {len(said)} answers to {len(questions)} questions; it is to give one for each"
        )
    for answer in said:
        if not 0 <= answer <= 1:
            raise InputError(
                f"the judge {judge.name} answers {answer}, which is no chance from 0 to 1; one that is no number may "
                "come of half precision, so try it on a CPU, or another judge"
            )
    return said


def _read_kept(path: Path, digest: str, names: Sequence[str]) -> list[ImageRecord] | None:
    """Return what was kept for a digest, else None; a damaged file is as good as none, since judging again is safe."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["digest"] != digest:
            return None
        said = zip(names, kept["images"], strict=True)
        return [ImageRecord(name, tuple(item.pop("p_subject")), **item) for name, item in said]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _seen(path: Path) -> Image:
    """Open an image as the judge sees it, and as the trainings do."""
    return on_white(open_image(path))
