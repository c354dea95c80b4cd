"""The miniature's judge: what it learns in seconds, its files, and its reported accuracy."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorarar.errors import InputError
from lorarar.evaluation.judges import Judge, Question
from lorarar.evaluation.metrics import Embedder
from miniature import judge_training, loop
from miniature.catalogue import CATALOGUE
from miniature.gallery import GALLERY
from miniature.judge import CONFIG, REPORT, WEIGHTS, MiniatureJudge, load_judge, save_judge, weights_sha256
from miniature.judge_data import CHUNK, GROUP, PLAIN, STYLES, training_drawings, worn, worn_images
from miniature.judge_network import DETAILS, JudgeNetwork, Widths
from miniature.judge_training import JudgePlan, build_judge, train_judge
from miniature.judge_trials import (
    AS_DRAWN,
    STYLE_CASES,
    SUBJECT_CASES,
    WORN,
    Trials,
    accuracy,
    as_csv,
    draw_trials,
    held_out_settings,
    judge_report,
    report_of,
    seen_pairs,
)
from miniature.judge_verdicts import EVIDENCE, Calibration
from miniature.loop import Schedule, seeded

SEED = 7
SMALL = Widths(8, (8, 16, 16), (1, 1, 1))
TINY = JudgePlan(
    drawings=CHUNK,
    schedule=Schedule(steps=130, rate=6e-3, warmup=4),
    trials=26,
    subject=SMALL,
    style=SMALL,
    workers=1,
)
BRIEF = replace(TINY, schedule=Schedule(steps=10, rate=6e-3, warmup=4))  # for what any judge does, however it answers
SHIPPED = Path(__file__).resolve().parents[2] / "models" / "miniature" / "judge"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawings that all tiny trainings share."""
    folder = tmp_path_factory.mktemp("judge")
    training_drawings(SEED, TINY.drawings, folder / "judge_drawings", workers=1)
    return folder


@pytest.fixture(scope="module")
def judge(work: Path) -> MiniatureJudge:
    return train_judge(SEED, work, BRIEF)


@pytest.fixture(scope="module")
def trials() -> Trials:
    return draw_trials(held_out_settings(26), SEED, workers=1)


def pictures(trials: Trials, count: int = 4) -> list[Image.Image]:
    return [Image.fromarray(image) for image in trials.test[:count]]


# What it is trained on


def test_drawings_are_groups_of_a_family_with_two_styles(work: Path) -> None:
    data = training_drawings(SEED, TINY.drawings, work / "judge_drawings", workers=1)
    assert data.images.shape == (CHUNK, 96, 96, 3)
    assert data.details.shape == (CHUNK, len(DETAILS))
    families = data.families.reshape(-1, GROUP)
    assert (families == families[:, :1]).all()
    styles = data.styles.reshape(-1, STYLES, GROUP // STYLES)
    assert (styles == styles[:, :, :1]).all()
    plain = families[:, 0] == PLAIN
    assert 0 < plain.mean() < 0.5
    assert (styles[plain] == 0).all()
    styled = styles[~plain][:, :, 0]
    assert len(np.unique(styled)) == styled.size


# Wear


def test_wear_softens_and_changes_little(trials: Trials) -> None:
    images = torch.from_numpy(trials.test[:16]).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.equal(worn(images, seeded(1), strength=0.0), images.clamp(-1, 1))
    result = worn(images, seeded(1))
    assert torch.equal(result, worn(images, seeded(1)))
    assert result.abs().max() <= 1
    assert 0.01 < float((result - images).abs().mean()) < 0.2
    again = worn_images(trials.test[:16], seeded(1))
    assert np.abs(again / 127.5 - 1 - result.permute(0, 2, 3, 1).numpy()).max() <= 0.5 / 127.5 + 1e-6


# The judge as the evaluation sees it


def test_it_is_a_judge_and_an_embedder(judge: MiniatureJudge, trials: Trials) -> None:
    assert isinstance(judge, Judge)
    assert isinstance(judge, Embedder)
    images = pictures(trials)
    for rows in (judge.subject_embeddings(images), judge.style_embeddings(images)):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert judge.text_embedding("a dog") is None
    assert json.loads(json.dumps(judge.describe()))["stands_in"] is True


def test_many_questions_answer_as_single_ones(judge: MiniatureJudge, trials: Trials) -> None:
    first, second, third, fourth = pictures(trials)
    questions = [Question(first, second, "dog"), Question(third, second, "cat"), Question(fourth, first, "a car")]
    for ask in (judge.same_subjects, judge.in_styles):
        answers = ask(questions)
        singles = [ask([question])[0] for question in questions]
        assert answers == pytest.approx(singles, abs=1e-5)
        assert len(set(answers)) == 3
        assert all(0 <= answer <= 1 for answer in answers)


def test_images_of_any_size_and_mode(judge: MiniatureJudge, trials: Trials) -> None:
    image, other, *_ = pictures(trials)
    large = image.resize((192, 192), Image.Resampling.BICUBIC).convert("RGBA")
    (expected,) = judge.in_styles([Question(other, image, "")])
    assert judge.in_styles([Question(other, large, "")]) == [pytest.approx(expected, abs=0.1)]


def test_training_separates_styles_and_details(work: Path, trials: Trials, tmp_path: Path) -> None:
    """In seconds, styles are told apart; colours of subjects begin to be."""
    shutil.copytree(work / "judge_drawings", tmp_path / "judge_drawings")
    trained = train_judge(SEED, tmp_path, TINY)
    torch.manual_seed(SEED)
    untrained = MiniatureJudge(JudgeNetwork(TINY.subject, TINY.style).eval(), trained.calibration)
    margins = []
    for each in (untrained, trained):
        _, style = seen_pairs(each, trials, SEED, AS_DRAWN)
        cosines = {case: (a.style * b.style).sum(1).mean() for case, (a, b) in style.items()}
        margins.append(cosines["same style"] - cosines["another family"])
    assert margins[1] > margins[0] + 0.2


@pytest.mark.full
def test_the_same_seed_gives_the_same_judge_also_when_stopped(
    judge: MiniatureJudge, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(work / "judge_drawings", tmp_path / "judge_drawings")
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    whole = judge_training.JudgeLoss.__call__

    def stopped(self: judge_training.JudgeLoss, step: int) -> torch.Tensor:
        if step == 6:
            raise KeyboardInterrupt
        return whole(self, step)

    monkeypatch.setattr(judge_training.JudgeLoss, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_judge(SEED, tmp_path, BRIEF)
    assert (tmp_path / "judge.state").is_file()
    monkeypatch.setattr(judge_training.JudgeLoss, "__call__", whole)
    again = train_judge(SEED, tmp_path, BRIEF)
    assert again.describe() == judge.describe()
    # Until the judge is saved: what comes before that takes minutes too.
    assert (tmp_path / "judge.state").is_file()
    monkeypatch.setattr(judge_training, "judge_report", lambda *_, **__: [])
    build_judge(SEED, tmp_path, tmp_path / "judge", BRIEF)
    assert not (tmp_path / "judge.state").exists() and (tmp_path / "judge" / "config.json").is_file()


# The report


def test_report_counts_right_verdicts(judge: MiniatureJudge, trials: Trials) -> None:
    """A judge that says yes to everything is right where yes is right, and only there."""
    agreeable = replace(judge, calibration=Calibration((0.0,) * len(EVIDENCE) + (1.0,), (0.0, 1.0)))
    rows = report_of(agreeable, trials, SEED)
    assert len(rows) == 2 * len(GALLERY) * (len(SUBJECT_CASES) + len(STYLE_CASES))
    assert all(row.right == (row.count if row.case.startswith("same s") else 0) for row in rows)
    shares = accuracy(rows)
    assert shares["subject"]["same subject"] == {AS_DRAWN: 1.0, WORN: 1.0}
    assert shares["style"]["plain"] == {AS_DRAWN: 0.0, WORN: 0.0}
    assert next(iter(csv.DictReader(as_csv(rows).splitlines())))["case"] == "same subject"


def test_trials_hold_what_their_cases_say(trials: Trials) -> None:
    """The held-out styles all appear, and "another" is another kind or family for every row."""
    assert {setting.style_name for setting in trials.settings} == set(GALLERY)
    assert len({setting.subject_name for setting in held_out_settings(30)}) == 30
    assert len({(s.subject_name, s.style_name) for s in held_out_settings()}) == len(CATALOGUE) * len(GALLERY)
    for cases, key, case in (
        (trials.subject, lambda setting: setting.subject.kind, "another kind"),
        (trials.style, lambda setting: setting.style.family, "another family"),
    ):
        own = cases["same subject" if "same subject" in cases else "same style"]
        for row, image in enumerate(cases[case]):
            source = next(index for index, other in enumerate(own) if np.array_equal(other, image))
            assert key(trials.settings[source]) != key(trials.settings[row])


# Its files


def test_saved_and_loaded_it_answers_alike(judge: MiniatureJudge, trials: Trials, tmp_path: Path) -> None:
    kept = replace(judge, facts={"seed": SEED, "accuracy": {"subject": {"same subject": 0.5}}})
    save_judge(kept, tmp_path / "judge", "side,case\n")
    loaded = load_judge(tmp_path / "judge")
    assert loaded.describe() == kept.describe()
    assert loaded.facts == kept.facts
    assert weights_sha256(loaded.network) == weights_sha256(judge.network)
    images = pictures(trials)
    questions = [Question(one, other, "") for one in images for other in images]
    assert loaded.same_subjects(questions) == kept.same_subjects(questions)
    assert loaded.in_styles(questions) == kept.in_styles(questions)
    assert (tmp_path / "judge" / REPORT).read_text() == "side,case\n"


@pytest.fixture(scope="module")
def saved(judge: MiniatureJudge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "judge"
    save_judge(judge, folder)
    return folder


def test_a_missing_judge_says_how_to_build_it(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file; .* lorarar miniature build"):
        load_judge(tmp_path / "nothing")
    shutil.copytree(saved, tmp_path / "judge")
    (tmp_path / "judge" / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"judge\.safetensors: no such file"):
        load_judge(tmp_path / "judge")


def _edit(**values: object) -> object:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _widths(**values: object) -> object:
    side = {"stem": 8, "channels": [8, 16, 16], "blocks": [1, 1, 1]} | values
    return _edit(widths={"subject": side, "style": side})


def _truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def _not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    weights["style.bias"][0] = torch.nan
    save_file(weights, folder / WEIGHTS)


def _lacking(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    del weights["style.bias"]
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "weights are damaged"),
        (_not_finite, "weights are not finite"),
        (_lacking, "other weights than"),
        (lambda folder: (folder / CONFIG).write_text("{"), "not valid JSON"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "not of type 'object'"),
        (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), "not valid JSON"),
        (lambda folder: (folder / CONFIG).write_bytes("{}".encode("utf-16")), "not valid JSON"),
        # An InputError of its own, which was once wrapped into "is damaged (…)".
        (_edit(schema_version=2), r"config\.json: \$\.schema_version breaks .*1 was expected"),
        (_edit(evidence=["kind"]), "judge: the judge weighs other evidence"),
        (_widths(stem=9), "other weights than"),
        (_widths(channels=[8, 16]), r"\$\.widths\.subject\.channels "),
        (_widths(stem=10**9), r"\$\.widths\.subject\.stem .*greater than the maximum"),
        (_widths(blocks=[1, 10**9, 1]), r"\$\.widths\.subject\.blocks\[1\] .*greater than the maximum"),
        (_edit(widths={"depth": 3}), "'subject' is a required"),
        (_edit(calibration={"subject": [float("nan")], "style": [1.0, 0.0]}), "not valid JSON"),
        (_edit(calibration={"subject": [1.0], "style": [1.0, 0.0]}), "a calibration of other length"),
    ],
)  # fmt: skip
def test_a_damaged_judge_is_refused(saved: Path, tmp_path: Path, damage: object, message: str) -> None:
    shutil.copytree(saved, tmp_path / "judge")
    assert callable(damage)
    damage(tmp_path / "judge")
    with pytest.raises(InputError, match=message) as caught:
        load_judge(tmp_path / "judge")
    assert "lorarar miniature build" in str(caught.value)


# The shipped judge


@pytest.mark.full
def test_the_shipped_judge_is_as_accurate_as_it_says() -> None:
    """On one trial in twelve of the report's, drawn from another seed: within three standard errors and 3 points."""
    judge = load_judge(SHIPPED)
    count = 65
    measured = accuracy(judge_report(judge, SEED, count, workers=1))
    for side, cases in judge.facts["accuracy"].items():
        for case, shares in cases.items():
            for images, share in shares.items():
                margin = 3 * np.sqrt(share * (1 - share) / count) + 0.03
                assert measured[side][case][images] == pytest.approx(share, abs=margin), (side, case, images)
