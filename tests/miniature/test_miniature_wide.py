"""The wide test's subjects and styles: apart from all else that is held out, and from what the shipped base saw."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from operator import eq
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from lorarar.base.names import DATASET_FOLDER, MINIATURE_FOLDER
from lorarar.errors import InputError
from lorarar.lora import read_lora
from lorarar.training.dataset import read_dataset
from lorarar.training.dataset_loras import JobSettings, missing_jobs, training_words
from lorarar.training.settings import LoraSettings
from miniature import catalogue, gallery, references, stages
from miniature.catalogue import ALIKE, CATALOGUE, WIDE, Entry, fresh_subject, near_catalogue
from miniature.gallery import near_gallery
from miniature.population import PLAIN_SHARE, sample_style
from miniature.references import HALVES, write_wide_dataset
from miniature.scene import sample_view
from miniature.stages import BuildPlan
from miniature.styles import FAMILIES
from miniature.subjects import DETAILS, KINDS
from miniature.wide import write_wide
from miniature.wide_sets import Drawn, wide_training, wide_validation


def test_the_wide_test_is_apart_from_all_else(tmp_path: Path) -> None:
    write_wide_dataset(tmp_path, seed=0)
    dataset = read_dataset(tmp_path)
    part = dataset.part("paper", "test")
    assert [len(side) for side in part] == [24, 24] and not {*dataset.contents} & {*CATALOGUE}
    first, second = (dataset.part(half, "test") for half in HALVES)
    assert [*first[0], *second[0]] == part[0] and len(first[0]) == 12 and first[1] == second[1] == part[1]
    assert len({content.class_name for content in dataset.contents.values()}) == len(KINDS)
    assert len({style.description for style in dataset.styles.values()}) == 24
    assert all(near_catalogue(entry.subject) for entry in WIDE.values())
    held = gallery.GALLERY.values()
    assert not any(gallery.is_near(style, other) for style in gallery.WIDE.values() for other in held)
    # As held-out subjects: alike with none of those that stood there before.
    for entry in WIDE.values():
        looks = list(entry.subject.looks().values())
        held = [*CATALOGUE.values(), *WIDE.values()]
        others = [other.subject for other in held if other.subject.kind == entry.subject.kind and other is not entry]
        alike = [sum(map(eq, looks, other.looks().values())) for other in others]
        assert max(alike, default=0) < ALIKE and None not in looks


@pytest.mark.parametrize(
    ("part", "drawn", "sizes", "alike"),
    [("validation", wide_validation, (16, 16), 1), ("train", wide_training, (2 * len(KINDS), 2 * len(FAMILIES)), 2)],
)
def test_what_is_chosen_and_trained_on_is_near_nothing_that_is_held_out(
    part: str,
    drawn: Callable[[], Drawn],
    sizes: tuple[int, int],
    alike: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A picture takes 60 ms, and is as random as what is drawn here.
    monkeypatch.setattr(
        references, "picture", lambda subject, style, rng: rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    )
    subjects, styles = drawn()
    assert not any(near_catalogue(entry.subject) for entry in subjects.values())
    assert not any(gallery.near_gallery(style) for style in styles.values())
    for seed, folder in enumerate(("a", "b")):
        write_wide_dataset(tmp_path / folder, seed, part)
    dataset = read_dataset(tmp_path / "a")
    contents, styled = dataset.part("paper", part)
    assert (len(contents), len(styled)) == sizes and not any(dataset.part("paper", "test"))
    assert set(Counter(content.class_name for content in contents).values()) == {alike}
    assert max(Counter(style.family for style in styles.values()).values()) == alike
    for drawing in (tmp_path / "a").rglob("*.png"):  # it is the same for everyone
        assert drawing.read_bytes() == (tmp_path / "b" / drawing.relative_to(tmp_path / "a")).read_bytes()


def test_no_subject_or_style_is_in_two_of_the_sets() -> None:
    names = [{name for side in drawn() for name in side} for drawn in (wide_training, wide_validation)]
    names += [{*WIDE, *gallery.WIDE}, {*CATALOGUE, *gallery.GALLERY}]
    assert sum(map(len, names)) == len(set.union(*names))
    trained, held = (drawn()[1].values() for drawn in (wide_training, wide_validation))
    assert not any(gallery.is_near(style, other) for style in trained for other in held)
    held_out = [*gallery.GALLERY.values(), *gallery.WIDE.values()]
    assert not any(gallery.is_near(style, other) for style in [*trained, *held] for other in held_out)
    looks = [entry.subject for drawn in (wide_training, wide_validation) for entry in drawn()[0].values()]
    assert len({repr(subject) for subject in looks}) == len(looks)


def test_its_loras_are_trained_once_on_the_base_given(tmp_path: Path) -> None:
    short = LoraSettings(rank=2, steps=1)
    plan = BuildPlan(tmp_path, tmp_path, seed=3, contents=short, styles=short, workers=1)
    assert write_wide(plan, MINIATURE_FOLDER) == tmp_path
    dataset = read_dataset(tmp_path)
    entries = [*dataset.contents.values(), *dataset.styles.values()]
    assert len(entries) == 48 and missing_jobs(dataset) == []
    assert {read_lora(entry.lora).metadata["lorarar_base"] for entry in entries} == {"miniature"}
    first = entries[0].lora
    first.unlink()
    trained: list[str] = []
    write_wide(replace(plan, report=lambda text, done, total: trained.append(text)), MINIATURE_FOLDER)
    with pytest.raises(InputError, match=r"holds another dataset \(part, drawings\)"):
        write_wide(plan, MINIATURE_FOLDER, "validation")
    with pytest.raises(InputError, match=r"holds another dataset \(seed, loras\)"):
        write_wide(replace(plan, seed=plan.seed + 1), MINIATURE_FOLDER)
    other = Path(shutil.copytree(MINIATURE_FOLDER / "unet", tmp_path / "other" / "unet")).parent
    with (other / "unet" / "diffusion_pytorch_model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=r"holds another dataset \(base\)"):
        write_wide(plan, other)
    assert first.is_file() and {text.partition(",")[0] for text in trained} == {first.stem}


def test_a_folder_of_other_things_or_of_other_drawings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "train_jobs", lambda *_: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other things; give a new or empty folder"):
        write_wide(BuildPlan(tmp_path, tmp_path / "mine"), MINIATURE_FOLDER)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]

    plan = BuildPlan(tmp_path, tmp_path / "wide")
    write_wide(plan, MINIATURE_FOLDER)
    write_wide(plan, MINIATURE_FOLDER)
    (name, entry), *_ = WIDE.items()
    other = replace(entry, subject=replace(entry.subject, kind="cat" if entry.subject.kind == "dog" else "dog"))
    monkeypatch.setitem(cast(dict[str, Entry], WIDE), name, other)
    with pytest.raises(InputError, match=r"holds another dataset \(drawings\)"):
        write_wide(plan, MINIATURE_FOLDER)


def test_its_subjects_are_trained_under_the_words_that_the_miniature_s_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no training styles of its own."""
    given: list[JobSettings] = []
    monkeypatch.setattr(stages, "train_jobs", lambda jobs, loading, settings, *_: given.append(settings))
    write_wide(BuildPlan(tmp_path, tmp_path), MINIATURE_FOLDER, "validation")
    dataset = read_dataset(tmp_path)
    words = training_words(read_dataset(MINIATURE_FOLDER / DATASET_FOLDER), "paper")
    assert len(words) == 16 and {settings.styles for settings in given} == {words}
    learned = given[0].of(next(iter(dataset.contents.values())))
    assert learned[0].styled == 0.5 and learned[1] is not None and learned[1].styles == words
    assert [settings.of(next(iter(dataset.styles.values())))[1] for settings in given] == [None, None]


@pytest.mark.full
def test_the_shipped_base_saw_nothing_of_the_wide_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its 40,000 subjects and 28,006 styles, drawn again without their pictures, by the rules of its own time."""
    subjects, drawn = dict(catalogue.WIDE), dict(gallery.WIDE)
    monkeypatch.setattr(catalogue, "WIDE", {})
    monkeypatch.setattr(gallery, "WIDE", {})
    found = []
    for index in range(stages.DRAWINGS):
        rng = np.random.default_rng((0, index))
        found.append((fresh_subject(rng), None))
        sample_view(rng)
        rng.random(len(DETAILS))
        if rng.random() >= PLAIN_SHARE:
            found[-1] = (found[-1][0], sample_style(rng))
    monkeypatch.setattr(catalogue, "CATALOGUE", subjects)
    monkeypatch.setattr(gallery, "GALLERY", {})
    monkeypatch.setattr(gallery, "WIDE", drawn)
    assert sum(style is not None for _, style in found) == 28_006
    assert not any(near_catalogue(subject) for subject, _ in found)
    assert not any(near_gallery(style) for _, style in found if style is not None)
