"""Which image is put beside which reference, with which words, and which other entry's references are the controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripted import ScriptedJudge

from lorarar.errors import InputError
from lorarar.evaluation.judges import Question
from lorarar.evaluation.judging import Swap, judge_kept, judge_pair, next_entry
from lorarar.training.dataset import Content, Style


def plain(path: Path, level: int) -> Path:
    """An image that is known again by its level of grey."""
    Image.new("RGB", (8, 8), (level, level, level)).save(path)
    return path


def content(name: str, class_name: str, *images: Path) -> Content:
    return Content(name, class_name, "sks", "group", images, Path(f"{name}.safetensors"))


def style(name: str, description: str, *images: Path) -> Style:
    return Style(name, description, "group", "vase", images, Path(f"{name}.safetensors"))


def test_every_answer_is_that_of_its_own_question(tmp_path: Path) -> None:
    """Two images and two references a subject: each answer tells the number of its question, thus what was asked."""
    dog = content("dog", "dog", plain(tmp_path / "d0.png", 10), plain(tmp_path / "d1.png", 20))
    cat = content("cat", "cat", plain(tmp_path / "c0.png", 30), plain(tmp_path / "c1.png", 40))
    ink, oil = style("ink", "ink", plain(tmp_path / "i.png", 50)), style("oil", "oil", plain(tmp_path / "o.png", 60))
    images = {"first": plain(tmp_path / "0.png", 70), "second": plain(tmp_path / "1.png", 80)}
    asked: list[tuple[str, int, int, str]] = []

    def numbered(kind: str, question: Question) -> float:
        levels = [int(np.asarray(image)[0, 0, 0]) for image in (question.reference, question.test)]
        asked.append((kind, levels[0], levels[1], question.text))
        return (len(asked) - 1) / 64

    def question(answer: float) -> tuple[str, int, int, str]:
        return asked[int(64 * answer)]

    judge = ScriptedJudge(lambda question: numbered("subject", question), lambda question: numbered("style", question))
    records = judge_pair(judge, None, images, dog, ink, Swap(cat, oil))
    assert [record.image for record in records] == ["first", "second"]
    for record, test, other in zip(records, (70, 80), (30, 40), strict=True):
        subjects = [question(answer) for answer in record.p_subject]
        assert subjects == [("subject", 10, test, "dog"), ("subject", 20, test, "dog")]
        assert question(record.p_style) == ("style", 50, test, "ink")
        assert {name: question(answer) for name, answer in record.controls.items()} == {
            "subject_swapped": ("subject", other, test, "dog"),
            "style_swapped": ("style", 60, test, "oil"),
            "style_image_swapped": ("style", 60, test, "ink"),
        }


@pytest.mark.parametrize("kind", ["same_subjects", "in_styles"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda said: said[:-1], "has 3 answers to 4 questions|has 1 answers to 2 questions"),
        (lambda said: [*said, 0.5], "has 5 answers to 4 questions|has 3 answers to 2 questions"),
        (lambda said: [*said[:-1], 1.01], "answers 1.01, which is no chance"),
        (lambda said: [*said[:-1], -0.01], "answers -0.01, which is no chance"),
        (lambda said: [*said[:-1], float("nan")], "answers nan, which is no chance"),
    ],
)
def test_answers_of_a_stranger_s_judge_are_looked_at(
    kind: str,
    wrong: Callable[[list[float]], list[float]],
    message: str,
    shown: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One too few would give an image fewer references, or another's answer."""
    judge = ScriptedJudge(lambda _: 0.0, lambda _: 1.0)
    judge_kept(judge, **shown)
    plain(shown["images"]["first"], 99)
    answer = getattr(judge, kind)
    monkeypatch.setattr(judge, kind, lambda questions: wrong(answer(questions)))
    with pytest.raises(InputError, match=message):
        judge_kept(judge, **shown)


def test_a_metric_that_is_no_number_is_told_and_not_kept(
    shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown["embedder"], "text_embedding", lambda text: np.array([np.nan, 0.0]))
    with pytest.raises(InputError, match="CLIP or DINO says is no number"):
        judge_kept(ScriptedJudge(lambda _: 1.0, lambda _: 1.0), **shown)
    assert not list(shown["images"]["first"].parent.glob("*.json"))


def test_the_other_entry_is_the_next_of_the_part_and_else_of_the_dataset() -> None:
    dog, cat, cup = (content(name, name) for name in ("dog", "cat", "cup"))
    everything = {entry.name: entry for entry in (dog, cat, cup)}
    # A part names an entry once a pair.
    assert [next_entry(entry, (cup, cup, dog, dog), everything) for entry in (cup, dog)] == [dog, cup]
    assert [next_entry(entry, (entry, entry), everything) for entry in (dog, cat, cup)] == [cat, cup, dog]
    assert next_entry(dog, (dog,), {"dog": dog}) is None


def test_a_style_of_the_same_words_is_no_other_one() -> None:
    """The judge is asked by a style's words, to which an image of either would be right."""
    flat, flat_too, ink = style("flat_1", "flat"), style("flat_2", "flat"), style("ink", "ink")
    everything = {entry.name: entry for entry in (flat, flat_too, ink)}
    assert [next_entry(entry, (flat, flat_too, ink), everything) for entry in (flat, flat_too, ink)] == [ink, ink, flat]
    assert next_entry(flat, (flat, flat_too), everything) == ink
    assert next_entry(flat, (flat, flat_too), {"flat_1": flat, "flat_2": flat_too}) is None


class Levels:
    """An embedder that notes what it is shown: images by their level of grey, and words."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.name = "levels"

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def _embedded(self, what: str, images: Sequence[Image.Image]) -> np.ndarray:
        self.seen[what] = [int(np.asarray(image)[0, 0, 0]) for image in images]
        return np.stack([[1.0, level] for level in self.seen[what]])

    def subject_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self._embedded("subjects", images)

    def style_embeddings(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self._embedded("styles", images)

    def text_embedding(self, text: str) -> np.ndarray:
        self.seen["text"] = text
        return np.array([1.0, 0.0])


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """What `judge_kept` takes after the judge: an embedder, images, a pair and its swap."""
    levels = iter(range(10, 90, 10))
    paths = [plain(tmp_path / f"{level}.png", level) for level in levels]
    return {
        "embedder": Levels(),
        "images": {"first": paths[0], "second": paths[1]},
        "content": content("dog", "dog", *paths[2:4]),
        "style": style("ink", "ink", paths[4]),
        "swap": Swap(content("cat", "cat", paths[5]), style("oil", "oil", paths[6])),
    }


def test_metrics_are_of_the_pair_s_own_references_and_words(shown: dict[str, Any]) -> None:
    """The subject's references, the style's, and the prompt without the token, of which CLIP knows nothing."""
    records = judge_kept(ScriptedJudge(lambda _: 1.0, lambda _: 1.0), **shown)
    assert shown["embedder"].seen == {
        "styles": [10, 20, 50],
        "subjects": [10, 20, 30, 40],
        "text": "a dog in ink style",
    }
    for record, level in zip(records, (10, 20), strict=True):
        length = np.hypot(1, level)
        alike = [(1 + level * other) / length / np.hypot(1, other) for other in (50, 30, 40)]
        assert record.metrics == pytest.approx(
            {"clip_i": alike[0], "dino": (alike[1] + alike[2]) / 2, "clip_t": 1 / length}
        )


def another_image(given: dict[str, Any]) -> None:
    plain(given["images"]["second"], 99)


def another_reference(given: dict[str, Any]) -> None:
    plain(given["content"].images[1], 99)


def another_look(given: dict[str, Any]) -> None:
    plain(given["style"].images[0], 99)


def another_swapped_image(given: dict[str, Any]) -> None:
    plain(given["swap"].style.images[0], 99)


def other_words(given: dict[str, Any]) -> None:
    given["style"] = replace(given["style"], description="pen")


def other_swapped_words(given: dict[str, Any]) -> None:
    given["swap"] = given["swap"]._replace(style=replace(given["swap"].style, description="pastel"))


def another_embedder(given: dict[str, Any]) -> None:
    given["embedder"].name = "more levels"


def without_embedder(given: dict[str, Any]) -> None:
    given["embedder"] = None


@pytest.mark.parametrize(
    "change",
    [
        another_image,
        another_reference,
        another_look,
        another_swapped_image,
        other_words,
        other_swapped_words,
        another_embedder,
        without_embedder,
    ],
)
def test_kept_answers_are_those_of_the_same_questions(change: Callable[..., None], shown: dict[str, Any]) -> None:
    judge = ScriptedJudge(lambda _: 1.0, lambda _: 1.0)
    first = judge_kept(judge, **shown)
    asked = judge.asked
    assert asked == 2 * (2 + 1 + 3) and judge_kept(judge, **shown) == first and judge.asked == asked
    change(shown)
    judge_kept(judge, **shown)
    assert judge.asked == 2 * asked
