"""Put a pair's images before the judge: the verdicts, and the same questions with swapped references."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarar.evaluation.generate import digest_of
from lorarar.evaluation.judges import Judge, Question
from lorarar.evaluation.metrics import Embedder, similarities
from lorarar.files import atomic_file
from lorarar.images import on_white, open_image
from lorarar.training.dataset import Content, Dataset, Style

if TYPE_CHECKING:
    from PIL.Image import Image

JUDGED_FILE = "judged.json"


@dataclass(frozen=True)
class Judged:
    """The answers about one image; the fields are those of `results.ImageRecord`."""

    p_subject: list[float]
    p_style: float
    controls: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Swap:
    """The other content and style whose references a pair's controls use; None where the dataset has no other."""

    content: Content | None
    style: Style | None

    @classmethod
    def of(cls, dataset: Dataset, contents: Sequence[str], styles: Sequence[str], content: str, style: str) -> Swap:
        """Return the next ones of the evaluated part, else of the dataset; always the same for a pair."""
        other_content = _next(content, contents, list(dataset.contents))
        other_style = _next(style, styles, list(dataset.styles))
        return cls(
            dataset.contents[other_content] if other_content else None,
            dataset.styles[other_style] if other_style else None,
        )


def judge_pair(
    judge: Judge, embedder: Embedder | None, images: Sequence[Path], content: Content, style: Style, swap: Swap
) -> list[Judged]:
    """Judge every image against every subject reference and the style's; then take the controls and the metrics.

    Controls, one reference an image: another subject's; another style's with its description (the right answer to
    both is no); another style's image with the right description (a judge that looks at the reference answers
    differently). The prompts and the majority are MARS²'s, the paper has no controls.
    """
    tests = [_seen(path) for path in images]
    subjects = [_seen(path) for path in content.images]
    look = _seen(style.images[0])
    asked = [Question(subject, test, content.class_name) for test in tests for subject in subjects]
    said = judge.same_subjects(asked)
    by_image = [said[row * len(subjects) : (row + 1) * len(subjects)] for row in range(len(tests))]
    in_style = judge.in_styles([Question(look, test, style.description) for test in tests])
    swapped = _ask_swapped(judge, tests, content, style, swap)
    text = f"a {content.class_name} in {style.description} style"
    metrics = [{} for _ in tests] if embedder is None else similarities(embedder, tests, subjects, look, text)
    return [
        Judged(by_image[row], in_style[row], {name: values[row] for name, values in swapped.items()}, metrics[row])
        for row in range(len(tests))
    ]


def judge_kept(
    judge: Judge, embedder: Embedder | None, images: Sequence[Path], content: Content, style: Style, swap: Swap
) -> list[Judged]:
    """Do as `judge_pair`, but keep the answers in `judged.json` beside the images, and read them from there later."""
    path = images[0].parent / JUDGED_FILE
    facts = {
        "judge": judge.describe(),
        "embedder": None if embedder is None else embedder.describe(),
        "images": [_sha(image) for image in images],
        "references": [_sha(image) for image in (*content.images, style.images[0])],
        "swapped": [_sha(image) for entry in (swap.content, swap.style) if entry for image in entry.images],
        "words": [content.class_name, style.description],
    }
    kept = _read_kept(path, digest_of(facts))
    if kept is not None:
        return kept
    judged = judge_pair(judge, embedder, images, content, style, swap)
    document = {"digest": digest_of(facts), "images": [asdict(item) for item in judged]}
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return judged


def _ask_swapped(
    judge: Judge, tests: Sequence[Image], content: Content, style: Style, swap: Swap
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    if swap.content is not None:
        others = [_seen(path) for path in swap.content.images]
        questions = [Question(others[row % len(others)], test, content.class_name) for row, test in enumerate(tests)]
        found["subject_swapped"] = judge.same_subjects(questions)
    if swap.style is not None:
        other = _seen(swap.style.images[0])
        found["style_swapped"] = judge.in_styles([Question(other, test, swap.style.description) for test in tests])
        found["style_image_swapped"] = judge.in_styles([Question(other, test, style.description) for test in tests])
    return found


def _read_kept(path: Path, digest: str) -> list[Judged] | None:
    """Return what was kept for a digest, else None; a damaged file is as good as none, since judging again is safe."""
    try:
        kept: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return [Judged(**item) for item in kept["images"]] if kept["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _next(name: str, part: Sequence[str], everything: Sequence[str]) -> str | None:
    names = list(part) if len(part) > 1 else list(everything)
    return names[(names.index(name) + 1) % len(names)] if len(names) > 1 else None


def _seen(path: Path) -> Image:
    """Open an image as the judge sees it, and as the trainings do."""
    return on_white(open_image(path))


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
