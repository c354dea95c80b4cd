"""Making a human study: which images are chosen, what a participant's copy carries, which files are refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from study_run import OURS, RIVAL, SECRETS, new_study, write_run

from human_study.definition import DISPLAY_SIZE, Study, clean_png, read_study
from human_study.make import make_study
from lorarar.errors import InputError


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return new_study(tmp_path)


def test_random_takes_any_image_and_best_an_accepted_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", contents=3)
    chosen: dict[str, set[bytes]] = {"random": set(), "best": set()}
    for case, shown in chosen.items():
        for seed in range(12):
            made = make_study(run, (OURS, RIVAL), case, tmp_path / f"{case}{seed}", seed)
            task = read_study(made.folder).tasks[1]
            shown.add(task.images[OURS].read_bytes())
            # Only the last of three images is accepted.
            assert task.accepted is not None
            assert task.accepted[OURS] == (task.images[OURS].read_bytes() == clean_png(run / f"{OURS}-1-2.png"))
            # Paper A1.2: where nothing is accepted, which the paper did not meet, any image; it is said.
            assert made.without_accepted == ((f"marmot0 in gouache0: {RIVAL}",) if case == "best" else ())
    assert chosen["best"] == {clean_png(run / f"{OURS}-1-2.png")}
    assert len(chosen["random"]) == 3


def test_the_same_seed_makes_the_same_study(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name, source, seed in (("a", run, 7), ("b", run / "results.json", 7), ("c", run, 8)):
        make_study(source, (OURS, RIVAL), "random", tmp_path / name, seed)
    a, b, c = (read_study(tmp_path / name) for name in "abc")
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()


def test_a_study_stands_alone_and_its_images_carry_no_metadata(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    before = study.fingerprint()
    for path in tmp_path.glob("run/*"):
        path.unlink()
    moved = tmp_path / "moved"
    study.folder.rename(moved)
    again = read_study(moved)
    assert again.fingerprint() == before
    for path in again.image_paths():
        assert not any(word.encode() in path.read_bytes() for word in SECRETS)


def test_images_are_turned_shrunk_and_cleaned(tmp_path: Path) -> None:
    photo = Image.new("RGB", (2 * DISPLAY_SIZE, DISPLAY_SIZE), "red")
    exif = photo.getexif()
    exif[0x0112], exif[0x010E] = 6, f"by {OURS}"  # orientation: a quarter turn; description
    photo.save(tmp_path / "photo.jpg", exif=exif, icc_profile=f"profile of {OURS}".encode())
    content = clean_png(tmp_path / "photo.jpg")
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("PNG", (DISPLAY_SIZE // 2, DISPLAY_SIZE))
        assert not image.info and not image.getexif()
    assert OURS.encode() not in content


def test_images_may_lie_anywhere(tmp_path: Path) -> None:
    """Paths in the results start at the run's folder; an absolute one stands for itself."""
    run = write_run(tmp_path / "run", contents=1)
    elsewhere = tmp_path / "elsewhere.png"
    (run / "gouache0.png").rename(elsewhere)
    path = run / "results.json"
    path.write_text(path.read_text().replace('"gouache0.png"', json.dumps(str(elsewhere))))
    made = make_study(run, (OURS, RIVAL), "random", tmp_path / "study")
    assert read_study(made.folder).tasks[0].style_reference.read_bytes() == clean_png(elsewhere)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("pairs"), "'pairs' is a required property"),
        (lambda data: data["pairs"][1].pop("references"), r"\$\.pairs\[1\] .*'references' is a required"),
        (lambda data: data["pairs"][0]["references"].update(subject=[]), r"references\.subject"),
        (lambda data: data["pairs"][0]["references"].update(style="a\0b"), r"references\.style"),
        (lambda data: data["pairs"][0]["references"].update(style="\ud800.png"), r"references\.style"),
        (lambda data: data["pairs"][1]["methods"].pop(RIVAL), r"pairs\[1\] holds other methods"),
        (lambda data: data["pairs"][1]["methods"][RIVAL][0].update(image="gone.png"), "no such image"),
        (lambda data: data["pairs"][0]["references"].update(style="results.json"), "not a whole PNG"),
        (lambda data: data["pairs"].append(data["pairs"][0]), "two pairs of these results are called"),
    ],
)
def test_bad_results_are_refused_and_nothing_is_left(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    run = write_run(tmp_path / "run", contents=2, images=1)
    data = json.loads((run / "results.json").read_text())
    change(data)
    (run / "results.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        make_study(run, (OURS, RIVAL), "random", tmp_path / "study")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_study_without_verdicts_is_read(study: Study) -> None:
    path = study.folder / "study.json"
    data = json.loads(path.read_text())
    for task in data["tasks"]:
        del task["accepted"]
    path.write_text(json.dumps(data))
    assert all(task.accepted is None for task in read_study(study.folder).tasks)


def test_an_existing_study_is_never_overwritten(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already there, perhaps with answers"):
        make_study(tmp_path / "run", (OURS, RIVAL), "random", study.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema_version=2), r"\$\.schema_version .*1 was expected"),
        (lambda data: data.update(methods=[OURS]), r"\$\.methods "),
        (lambda data: data.update(methods=[OURS, OURS]), r"\$\.methods .*non-unique"),
        (lambda data: data.update(tasks=[]), r"\$\.tasks "),
        (lambda data: data.update(question=" "), r"\$\.question "),
        (lambda data: data.update(question="\ud800"), r"\$\.question "),
        (lambda data: data["tasks"][0].update(id="x\ud800"), r"\$\.tasks\[0\]\.id "),
        (lambda data: data.update(seed="0"), r"\$\.seed .*not of type 'integer'"),
        (lambda data: data["tasks"].append(data["tasks"][0]), "every id must be unique"),
        (lambda data: data["tasks"][0]["images"].pop(OURS), "images of the task .* must be those of"),
        (lambda data: data["tasks"][0]["images"].update({OURS: "../run/results.json"}), "leaves the study's folder"),
        (lambda data: data["tasks"][0]["images"].update({OURS: "/etc/passwd"}), "leaves the study's folder"),
        (lambda data: data["tasks"][0].update(style_reference="study.json"), "not a whole PNG, JPEG"),
        (lambda data: data["tasks"][0].update(style_reference="images/no.png"), "is not there"),
        (lambda data: data["tasks"][0].update(style_reference="loop.png"), "its links lead in a circle"),
        (lambda data: data["tasks"][0].update(style_reference="a\0b"), r"tasks\[0\]\.style_reference"),
        (lambda data: data["tasks"][0].update(style_reference="\ud800"), r"tasks\[0\]\.style_reference"),
        (lambda data: data["tasks"][0].update(accepted={OURS: 1, RIVAL: 0}), r"tasks\[0\]\.accepted.*'boolean'"),
        (lambda data: data["tasks"][0].update(accepted={OURS: True}), "accepted of the task .* must be those of"),
        (lambda data: data["example"].update(better=True), r"\$\.example\.better "),
        (lambda data: data["example"].update(options=["a"]), r"\$\.example\.options "),
        (lambda data: data.update(example=None), r"\$\.example .*not of type 'object'"),
    ],
)
def test_bad_studies_are_refused(study: Study, change: Callable[[dict[str, Any]], object], message: str) -> None:
    (study.folder / "loop.png").symlink_to("loop.png")
    path = study.folder / "study.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        read_study(study.folder)
