"""Which image is put beside which reference, with which words, and which other entry's references are the controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scripted import ScriptedJudge

from lorarar.evaluation.judges import Question
from lorarar.evaluation.judging import Swap, judge_pair, next_entry
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
    """Two images and two references a subject: each answer is the number of a question, which says what was asked."""
    dog = content("dog", "dog", plain(tmp_path / "d0.png", 10), plain(tmp_path / "d1.png", 20))
    cat = content("cat", "cat", plain(tmp_path / "c0.png", 30), plain(tmp_path / "c1.png", 40))
    ink, oil = style("ink", "ink", plain(tmp_path / "i.png", 50)), style("oil", "oil", plain(tmp_path / "o.png", 60))
    images = {"first": plain(tmp_path / "0.png", 70), "second": plain(tmp_path / "1.png", 80)}
    asked: list[tuple[str, int, int, str]] = []

    def numbered(kind: str, question: Question) -> float:
        levels = [int(np.asarray(image)[0, 0, 0]) for image in (question.reference, question.test)]
        asked.append((kind, levels[0], levels[1], question.text))
        return len(asked) - 1

    judge = ScriptedJudge(lambda question: numbered("subject", question), lambda question: numbered("style", question))
    records = judge_pair(judge, None, images, dog, ink, Swap(cat, oil))
    assert [record.image for record in records] == ["first", "second"]
    for record, test, other in zip(records, (70, 80), (30, 40), strict=True):
        subjects = [asked[int(answer)] for answer in record.p_subject]
        assert subjects == [("subject", 10, test, "dog"), ("subject", 20, test, "dog")]
        assert asked[int(record.p_style)] == ("style", 50, test, "ink")
        assert {name: asked[int(answer)] for name, answer in record.controls.items()} == {
            "subject_swapped": ("subject", other, test, "dog"),
            "style_swapped": ("style", 60, test, "oil"),
            "style_image_swapped": ("style", 60, test, "ink"),
        }


def test_the_other_entry_is_the_next_of_the_part_and_else_of_the_dataset() -> None:
    dog, cat, cup = (content(name, name) for name in ("dog", "cat", "cup"))
    everything = {entry.name: entry for entry in (dog, cat, cup)}
    # A part names an entry once a pair.
    assert [next_entry(entry, (cup, cup, dog, dog), everything) for entry in (cup, dog)] == [dog, cup]
    assert [next_entry(entry, (entry, entry), everything) for entry in (dog, cat, cup)] == [cat, cup, dog]
    assert next_entry(dog, (dog,), {"dog": dog}) is None
