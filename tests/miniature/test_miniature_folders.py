"""The folders of a build: an output that holds other things, work that is another build's, and one within the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lorarar.base.names import MINIATURE_FOLDER
from lorarar.commands.miniature import main
from lorarar.errors import InputError
from miniature.stages import BuildPlan, claim_work, publish


def test_an_output_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other things; give a new or empty folder"):
        main(["build", "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("out", ["work", ".", "work/miniature", "work/miniature/unet", "work/judge"])
def test_an_output_that_would_take_the_work_with_it_is_refused(out: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "times.json").write_text("{}")  # as a miniature has it
    with pytest.raises(InputError, match="one within the other"):
        main(["build", "--work", str(tmp_path / "work"), "--out", str(tmp_path / out)])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["times.json", "work"]


@pytest.mark.parametrize(
    ("trainings", "says"),
    [
        ("[]", "start: diffusers can't load it"),  # no weights
        ("[1]", r"trainings\.json: \$\[0\] breaks the schema"),
        ("{", r"trainings\.json: not valid JSON"),
    ],
)
def test_a_start_that_can_t_be_had_is_refused_before_any_work(trainings: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    shutil.copy(MINIATURE_FOLDER / "model_index.json", tmp_path / "start")
    (tmp_path / "start" / "trainings.json").write_text(trainings)
    with pytest.raises(InputError, match=says):
        main(["build", "--start", str(tmp_path / "start"), "--work", str(tmp_path / "work"), "-o", str(tmp_path / "o")])
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_work_without_a_plan_and_another_start_are_refused(tmp_path: Path) -> None:
    """Their results would be taken for this build's."""
    (tmp_path / "work" / "autoencoder").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a build without its plan\.json"):
        claim_work(BuildPlan(tmp_path / "work", tmp_path / "out"))
    weights = tmp_path / "start" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    plan = BuildPlan(tmp_path / "new", tmp_path / "out", start=tmp_path / "start")
    claim_work(plan)
    claim_work(plan)
    weights.write_bytes(b"two")
    with pytest.raises(InputError, match=r"holds another build \(weights"):
        claim_work(plan)


def test_a_start_of_another_kind_is_refused_before_the_work_is_claimed(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="this is a StableDiffusionPipeline; give a StableDiffusionXLPipeline"):
        main(["build", "--start", str(start), "--work", str(tmp_path / "work")])
    assert not (tmp_path / "work").exists()


def test_what_a_killed_run_was_writing_is_not_published(tmp_path: Path) -> None:
    plan = BuildPlan(tmp_path / "work", tmp_path / "out")
    (plan.made / ".judge.k3j").mkdir(parents=True)
    for name in ("times.json", ".times.json.x2", ".judge.k3j/judge.safetensors"):
        (plan.made / name).write_text("{}")
    publish(plan)
    assert [path.name for path in plan.output.rglob("*")] == ["times.json"]
