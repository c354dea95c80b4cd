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

from human_study.definition import Study, read_study
from human_study.images import DISPLAY_SIZE, clean_png
from human_study.make import make_study
from human_study.results import read_results
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
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make_study(run, (OURS, RIVAL), "random", tmp_path / name, seed)
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


def test_results_of_the_evaluation_are_read(tmp_path: Path) -> None:
    """The contract between the two: a file that lorarar.evaluation writes."""
    from lorarar.evaluation.results import ImageRecord, MethodInfo, PairRecord, Results, write_results

    images = {"ours": (ImageRecord("a.png", (0.9, 0.8, 0.1), 0.7), ImageRecord("b.png", (0.9, 0.1, 0.1), 0.7))}
    pair = PairRecord("dog", "ink", "a dog in ink style", ("r1.png", "r2.png", "r3.png"), "/s.png", {}, images)
    write_results(Results({}, {}, (MethodInfo("ours", "Ours", "ours"),), (pair,)), tmp_path / "results.json")
    (read,) = read_results(tmp_path)
    assert (read.content, read.style) == ("dog", "ink")
    assert read.subject_references[0] == tmp_path / "r1.png"
    assert read.style_reference == Path("/s.png")
    assert [(image.image.name, image.accepted) for image in read.methods["ours"]] == [("a.png", True), ("b.png", False)]


def test_unjudged_images_serve_the_random_case_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", contents=2)
    data = json.loads((run / "results.json").read_text())
    for pair in data["pairs"]:
        for images in pair["methods"].values():
            for image in images:
                del image["subject"]
    (run / "results.json").write_text(json.dumps(data))
    made = make_study(run, (OURS, RIVAL), "random", tmp_path / "random")
    assert all(task.accepted is None for task in read_study(made.folder).tasks)
    with pytest.raises(InputError, match=r"were not judged; .* or use --case random"):
        make_study(run, (OURS, RIVAL), "best", tmp_path / "best")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("pairs"), "no pairs in it"),
        (lambda data: data["pairs"][1].pop("references"), r"pairs\[1\] can't be read"),
        (lambda data: data["pairs"][0]["references"].update(subject=[]), "no subject reference"),
        (lambda data: data["pairs"][1]["methods"].pop(RIVAL), f"no images of {RIVAL} in this run .it has: {OURS}."),
        (lambda data: data["pairs"][1]["methods"][RIVAL][0].update(image="gone.png"), "not a whole PNG"),
        (lambda data: data["pairs"][0]["references"].update(style="results.json"), "not a whole PNG"),
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


def test_an_existing_study_is_never_overwritten(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already there, perhaps with answers"):
        make_study(tmp_path / "run", (OURS, RIVAL), "random", study.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(schema_version=2), "schema_version is 2; this version of the toolkit reads 1"),
        (lambda data: data.update(methods=[OURS]), "a list of two names"),
        (lambda data: data.update(methods=[OURS, OURS]), "two different names"),
        (lambda data: data.update(tasks=[]), "at least one entry"),
        (lambda data: data.update(question=" "), "question must be a text that is not empty"),
        (lambda data: data["tasks"].append(data["tasks"][0]), "every id must be unique"),
        (lambda data: data["tasks"][0]["images"].pop(OURS), r"tasks\[0\].images must have exactly the keys"),
        (lambda data: data["tasks"][0]["images"].update({OURS: "../run/results.json"}), "leaves the study's folder"),
        (lambda data: data["tasks"][0]["images"].update({OURS: "/etc/passwd"}), "leaves the study's folder"),
        (lambda data: data["tasks"][0].update(style_reference="study.json"), "not a whole PNG, JPEG or WebP"),
        (lambda data: data["tasks"][0].update(style_reference="images/no.png"), "is not there"),
        (lambda data: data["tasks"][0].update(accepted={OURS: 1, RIVAL: 0}), "must give true or false"),
        (lambda data: data["example"].update(better=True), "example.better must be 1 or 2"),
        (lambda data: data.update(example=None), "example must be an object"),
    ],
)
def test_bad_studies_are_refused(study: Study, change: Callable[[dict[str, Any]], object], message: str) -> None:
    path = study.folder / "study.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        read_study(study.folder)
