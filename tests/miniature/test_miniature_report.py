"""What `lorarar miniature report` measures: a perfect base against its gates, a poor one, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorarar.base.names import MINIATURE_FOLDER
from lorarar.commands.miniature import main
from lorarar.errors import InputError
from lorarar.evaluation.generate import Sampler, Sampling, image_seeds
from lorarar.evaluation.judges import Question
from lorarar.lora import LoRA
from lorarar.training.dataset import Content, Style
from miniature.judge import MiniatureJudge, shipped_judge
from miniature.population import Example
from miniature.progress import silent
from miniature.report import (
    CONTENT_GATE,
    KIND_GATE,
    STYLE_GATE,
    base_rows,
    drawings,
    lora_row,
    lora_rows,
    rebuilt,
)
from miniature.samples import sheet

COUNT = 40


@pytest.fixture(scope="module")
def judge() -> MiniatureJudge:
    return shipped_judge()


@pytest.fixture(scope="module")
def drawn() -> list[Example]:
    return drawings(0, COUNT, silent)


def test_a_base_that_draws_the_drawings_reaches_what_is_wished(judge: MiniatureJudge, drawn: list[Example]) -> None:
    images = np.stack([item.image for item in drawn])
    rows = {row.name: row for row in base_rows(judge, drawn, images, images[::-1], 0)}
    assert set(rows) == {
        *("kind", "body", "second", "marking", "marking colour", "accessory", "accessory colour", "style's family")
    }
    assert all(row.share == row.ceiling and row.low <= row.share <= row.high for row in rows.values())
    kind = rows["kind"]
    assert kind.rebuilt is not None and kind.rebuilt < 0.3  # of other drawings
    assert kind.images == COUNT and kind.passed and kind.ceiling is not None
    assert kind.gate == KIND_GATE * kind.ceiling and kind.share > 0.9
    told = sum("body" in item.details for item in drawn)
    styled = sum(item.family is not None for item in drawn)
    assert (rows["body"].images, rows["style's family"].images) == (told, styled) and told < COUNT
    assert rows["style's family"].share > 0.2  # of 26, some of which are alike


def test_a_base_that_draws_something_else_is_told_from_it(judge: MiniatureJudge, drawn: list[Example]) -> None:
    others = np.stack([item.image for item in drawn])[::-1]
    rows = {row.name: row for row in base_rows(judge, drawn, others, others, 0)}
    assert rows["kind"].share < 0.3 and not rows["kind"].passed
    assert rows["style's family"].share < 0.3


def test_a_detail_that_the_caption_leaves_out_is_not_asked_for(judge: MiniatureJudge, drawn: list[Example]) -> None:
    silenced = [replace(item, details=("body",)) for item in drawn]
    images = np.stack([item.image for item in drawn])
    rows = {row.name: row for row in base_rows(judge, silenced, images, images, 0)}
    assert rows["body"].images == COUNT and not {"second", "marking", "accessory colour"} & set(rows)


def test_a_lora_s_interval_is_drawn_over_loras() -> None:
    """Three LoRAs, of which one is never right: a hundred images of each tell no more of LoRAs than one."""
    names = ["a", "b", "c", "a"]
    for each in (1, 100):
        right = [np.ones(each), np.zeros(each), np.ones(each), np.ones(each)]
        row = lora_row("style", names, right, 0, 0.9)
        assert row.share == pytest.approx(2 / 3) and (row.low, row.high) == (0, 1)
        assert row.images == 4 * each and row.passed is False
    mixed = lora_row("style", ["a", "b"], [np.array([1.0, 0.0]), np.array([0.0, 1.0])], 0, 0.5)
    assert (mixed.share, mixed.low, mixed.high, mixed.passed) == (0.5, 0.5, 0.5, True)


def test_a_sheet_has_every_picture_in_its_place() -> None:
    parts = [np.full((count, 4, 4, 3), value, np.uint8) for count, value in ((3, 10), (1, 200))]
    parts[0][2] = 99
    found = np.asarray(sheet(parts, columns=2))
    assert found.shape == (12, 8, 3)
    assert (found[:4, :4] == 10).all() and (found[4:8, :4] == 99).all() and (found[8:, :4] == 200).all()
    assert (found[4:8, 4:] == 255).all()


def test_the_command_measures_the_shipped_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--samples", "4", "--images", "1", "--steps", "1", "--guidance", "1", "-o", str(tmp_path)]
    assert main(["report", *given]) == 0
    rows = json.loads((tmp_path / "report.json").read_text())
    assert [row["images"] for row in rows[-3:]] == [5, 15, 15] and rows[-2]["gate"] == 0.7
    said = capsys.readouterr().out
    assert "right answers" in said and "below" in said and "sheet.png" in said
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width == 16 * 96


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples", "0"], "--samples is 0; give a whole number of 1 or more"),
        (["--guidance", "nan"], "--guidance is nan; give a number of 1 or more"),
        (["--base", "nowhere"], "nowhere: no pipeline in diffusers' layout"),
        (["--dataset", "nowhere"], "nowhere/dataset.json: no such file"),
        (["--seed", "-1"], "--seed is -1"),
    ],
)
def test_bad_input_is_told(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        main(["report", *arguments, "--steps", "1", "-o", str(tmp_path / "out")])
    assert message in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["a file/out", "folder/sheet.png", "folder/report.json"])
def test_an_output_that_cannot_be_written_is_told_before_drawing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sampler, "load", lambda *_: pytest.fail("nothing is to be drawn"))
    (tmp_path / "a file").touch()
    out = tmp_path / place
    if place.startswith("folder"):
        out.mkdir(parents=True)
        out = out.parent
    with pytest.raises(InputError, match=r"nothing can be written|this is a folder"):
        main(["report", "-o", str(out)])


def test_a_dataset_without_a_validation_part_is_told_before_drawing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the wide test's: without its LoRAs two of the gates would be missing, and the table would look whole."""
    document = json.loads((MINIATURE_FOLDER / "dataset" / "dataset.json").read_text())
    document["splits"]["paper"]["styles"]["validation"] = []
    shutil.copytree(MINIATURE_FOLDER / "dataset", tmp_path / "dataset")
    (tmp_path / "dataset" / "dataset.json").write_text(json.dumps(document))
    monkeypatch.setattr(Sampler, "load", lambda *_: pytest.fail("nothing is to be drawn"))
    with pytest.raises(InputError, match="--dataset has no validation part"):
        main(["report", "--dataset", str(tmp_path / "dataset"), "-o", str(tmp_path / "out")])


def test_a_base_without_loras_is_measured_alone(tmp_path: Path) -> None:
    kept = shutil.ignore_patterns("dataset", "judge", "hypernet*", "samples*")
    shutil.copytree(MINIATURE_FOLDER, tmp_path / "base", ignore=kept)
    given = ["--samples", "2", "--steps", "1", "--guidance", "1", "-o", str(tmp_path / "out")]
    assert main(["report", "--base", str(tmp_path / "base"), *given]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())[-1]["name"] == "style's family"


class Scripted(MiniatureJudge):
    """Says yes to an image that is no darker than the reference."""

    def __init__(self) -> None: ...

    def same_subjects(self, questions: Sequence[Question]) -> list[float]:
        levels = [[int(np.asarray(image)[0, 0, 0]) for image in (each.reference, each.test)] for each in questions]
        return [0.9 if reference <= test else 0.1 for reference, test in levels]

    in_styles = same_subjects


class Levels(Sampler):
    """Draws images of given levels of grey, and notes whose LoRA was on and what was asked."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__(None, Sampling("miniature", 1, 1.0, 7), 2)
        self.levels, self.asked = iter(levels), []

    def draw(self, put_on: Any, prompt: str, seeds: Sequence[int]) -> Iterator[Image.Image]:
        (lora,) = put_on.args
        self.asked.append((lora.source, prompt, list(seeds)))
        yield from (Image.new("RGB", (8, 8), (level,) * 3) for level in [next(self.levels) for _ in seeds])


def test_loras_alone_are_asked_for_their_own_and_under_each_other_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two subjects, of three and of two references, and two styles; two images each, of levels of grey."""
    for level in (10, 20, 30, 40, 50, 60):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / f"{level}.png")
    monkeypatch.setattr("miniature.report.read_lora", lambda path: LoRA({}, source=path.stem))
    contents = [
        Content("a", "dog", "sks", "g", tuple(tmp_path / f"{level}.png" for level in (10, 20, 30)), Path("a.st")),
        Content("b", "cat", "sks", "g", tuple(tmp_path / f"{level}.png" for level in (40, 50)), Path("b.st")),
    ]
    styles = [
        Style("x", "ink", "g", "vase", (tmp_path / "50.png",), Path("x.st")),
        Style("y", "oil", "g", "vase", (tmp_path / "60.png",), Path("y.st")),
    ]
    # By more than half of the references: a from level 20 on, b from 50 on; x from 50 on and y from 60 on.
    own, under, alone = [20, 20, 49, 50], [9, 25, 35, 45, 49, 45, 55, 20], [49, 50, 60, 60, 10, 51, 61, 59]
    sampler = Levels([*own, *under, *alone])
    rows, shown = lora_rows(Scripted(), sampler, contents, styles, 2, silent)
    assert [row.name for row in rows] == [
        *("subject, its own prompt", "subject, a style's prompt", "style, a subject's prompt"),
    ]
    assert [row.share for row in rows] == [3 / 4, 4 / 8, 5 / 8]
    assert [row.gate for row in rows] == [None, CONTENT_GATE, STYLE_GATE]
    assert [int(image[0, 0, 0]) for image in shown] == [*own[::2], *under[::2], *alone[::2]]
    asked = [
        *(("a", "a sks dog"), ("b", "a sks cat")),
        *(("a", "a sks dog in ink style"), ("a", "a sks dog in oil style")),
        *(("b", "a sks cat in ink style"), ("b", "a sks cat in oil style")),
        *(("x", "a dog in ink style"), ("y", "a dog in oil style")),
        *(("x", "a cat in ink style"), ("y", "a cat in oil style")),
    ]
    assert sampler.asked == [(lora, prompt, image_seeds(7, lora, prompt, 2)) for lora, prompt in asked]


def test_an_autoencoder_that_keeps_everything_gives_the_drawings_back(drawn: list[Example]) -> None:
    """Also of more than it takes at a time; what goes over white stays white."""

    class Whole:
        def __init__(self, more: float) -> None:
            self.more = more

        def encode(self, images: torch.Tensor) -> Any:
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=images * 3))

        def decode(self, latents: torch.Tensor) -> Any:
            return SimpleNamespace(sample=latents / 3 * self.more)

    images = np.stack([item.image for item in drawn])
    for more in (1.0, 2.0):
        sampler = Sampler(SimpleNamespace(vae=Whole(more)), Sampling("miniature", 1, 1.0, 0), 2)
        wanted = ((images.astype(float) / 127.5 - 1) * more + 1) * 127.5
        np.testing.assert_allclose(rebuilt(sampler, drawn), np.clip(wanted, 0, 255), atol=0.51)
