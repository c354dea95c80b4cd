"""The miniature's build: population, training loops that resume, the stages, the dataset it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_miniature import SMALL

from lorarar.base.names import MINIATURE_FOLDER
from lorarar.base.untrained import build_tokenizer, new_pipeline
from lorarar.command_line import given_settings
from lorarar.commands import train, train_lora
from lorarar.commands.miniature import main
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import load_predictor
from lorarar.lora import read_lora
from lorarar.training.dataset import read_dataset
from lorarar.training.dataset_loras import missing_jobs
from lorarar.training.hyper_settings import HyperSettings, default_hyper_settings
from lorarar.training.settings import LoraSettings, default_settings
from miniature import population as population_module
from miniature import stages
from miniature.build import STAGES, build
from miniature.card import stage_commands
from miniature.catalogue import CATALOGUE, near_catalogue
from miniature.gallery import GALLERY
from miniature.loop import Schedule
from miniature.pipelines import open_pipeline, steps_of, trainings_of
from miniature.population import caption, example, population
from miniature.references import write_dataset
from miniature.stages import BuildPlan
from miniature.styles import FAMILIES
from miniature.subjects import KINDS, sample_subject

TO_PIPELINE = ["population", "autoencoder", "reading", "base", "longer", "pipeline"]


def small_plan(folder: Path) -> BuildPlan:
    short = Schedule(steps=2, rate=1e-3, warmup=1)
    short_ones = {"vae": short, "reading": short, "base": short, "longer": short, "captions": 50}
    return BuildPlan(folder / "work", folder / "out", drawings=12, sizes=SMALL, **short_ones, compiled=False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of seed 0, without LoRAs."""
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> BuildPlan:
    """A small build up to its pipeline."""
    plan = small_plan(tmp_path_factory.mktemp("started"))
    build(plan, TO_PIPELINE)
    return plan


def test_an_example_depends_on_its_seed_and_index_alone() -> None:
    first, again, other = example(3, 5), example(3, 5), example(3, 6)
    assert first.caption == again.caption and np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_captions_read_as_the_prompts_of_the_paper() -> None:
    subject = CATALOGUE["cat_2"].subject
    assert caption(subject, ["body"], "watercolor painting") == "a cyan cat in watercolor painting style"
    assert caption(subject, []) == "a cat"
    told = caption(subject)
    assert told == "a cyan cat with navy ears, white spots and a red scarf"


def test_the_population_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population_module, "CHUNK", 3)
    images, captions = population(1, 7, tmp_path, workers=1)
    kept = {path.name: path.stat().st_mtime_ns for path in sorted(tmp_path.iterdir())[:-1]}
    sorted(tmp_path.iterdir())[-1].unlink()
    again, captions_again = population(1, 7, tmp_path, workers=1)
    assert np.array_equal(images, again) and captions == captions_again
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    assert captions == [example(1, index).caption for index in range(7)]
    chunk = min(tmp_path.iterdir())
    for left in (b"", chunk.read_bytes()[:100]):
        chunk.write_bytes(left)
        with pytest.raises(InputError, match=rf"{chunk.name} is damaged; remove it, and it is drawn again"):
            population(1, 7, tmp_path, workers=1)


def test_the_catalogue_is_split_as_the_paper_and_kept_out_of_the_population() -> None:
    parts = [entry.part for entry in CATALOGUE.values()]
    assert [parts.count(part) for part in ("train", "validation", "test")] == [20, 5, 5]
    for name, entry in CATALOGUE.items():
        assert near_catalogue(entry.subject), name
        assert name.rsplit("_", 1)[0] == entry.subject.kind
    rng = np.random.default_rng(0)
    far = [not near_catalogue(sample_subject(rng)) for _ in range(300)]
    assert sum(far) > 290


def test_subjects_of_the_catalogue_differ_in_what_is_seen() -> None:
    seen = {(e.subject.kind, e.subject.body, e.subject.marking, e.subject.marking_colour) for e in CATALOGUE.values()}
    assert len(seen) == len(CATALOGUE) == 30


def test_the_tokenizer_knows_the_words_and_spells_the_rest() -> None:
    tokenizer = build_tokenizer(["a red dog", "a red car"])
    assert tokenizer.tokenize("a red dog") == ["a</w>", "red</w>", "dog</w>"]
    assert tokenizer.tokenize("sks") == ["s", "k", "s</w>"]
    found = tokenizer("a red dog", padding="max_length", max_length=77).input_ids
    assert len(found) == 77 and found[0] == tokenizer.bos_token_id and set(found[4:]) == {tokenizer.eos_token_id}
    assert build_tokenizer(["a red dog", "a red car"]).get_vocab() == tokenizer.get_vocab()


def test_new_pipelines_have_koalas_shape_and_depend_on_the_seed() -> None:
    tokenizer = build_tokenizer(["a dog"])
    first, again, other = (new_pipeline(SMALL, tokenizer, seed) for seed in (1, 1, 2))
    assert first.unet.mid_block is None and first.unet.config.addition_embed_type == "text_time"
    assert first.unet.config.cross_attention_dim == sum(SMALL.text)
    weights = [pipeline.unet.conv_in.weight for pipeline in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_dataset_has_the_papers_numbers(drawn: Path) -> None:
    dataset = read_dataset(drawn)
    assert (len(dataset.contents), len(dataset.styles)) == (30, 26)
    assert {len(content.images) for content in dataset.contents.values()} == {4, 5, 6}
    split = dataset.split("paper")
    counts = [[len(side[part]) for part in ("train", "validation", "test")] for side in (split.contents, split.styles)]
    assert counts == [[20, 5, 5], [18, 3, 5]]
    assert set(dataset.styles) == set(GALLERY)
    for name in ("objects-to-toys", "animals-to-objects"):
        macro = dataset.split(name)
        groups = [{dataset.contents[item].group for item in macro.contents[part]} for part in ("train", "test")]
        assert groups[0] and groups[1] and not groups[0] & groups[1]
        styles = [{dataset.styles[item].group for item in macro.styles[part]} for part in ("train", "test")]
        assert styles[0] and styles[1] and not set(macro.styles["train"]) & set(macro.styles["test"])


@pytest.mark.full
def test_the_dataset_is_the_same_every_time(drawn: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=0)
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*.*"))
    assert len(files) == 30 * 5 + 26 + 1
    for path in files:
        assert (drawn / path).read_bytes() == (tmp_path / path).read_bytes()


def test_the_stages_make_a_pipeline_and_are_skipped_when_done(started: BuildPlan) -> None:
    pipeline = open_pipeline(started.made)
    assert pipeline.unet.config.block_out_channels == list(SMALL.unet)
    latents = pipeline.vae.config.scaling_factor
    assert latents != 0.18215 and np.isfinite(latents)
    assert (started.made / "samples.png").is_file()
    prompts = json.loads((started.made / "samples.json").read_text())
    assert len(prompts) == len(KINDS) + len(FAMILIES)
    assert all(kind in prompt for kind, prompt in zip(KINDS, prompts, strict=False))
    rounds = {"longer-1", "longer-2"}
    assert set(started.seconds()) == {*TO_PIPELINE, *rounds} - {"longer"}
    assert started.spent("longer") == sum(started.seconds()[name] for name in rounds)
    trainings = trainings_of(started.made)
    assert [training["stage"] for training in trainings] == ["autoencoder", "reading", "base", "longer", "longer"]
    assert [training["steps"] for training in trainings] == [2, 2, 2, 2, 2]
    skipped = TO_PIPELINE[1:]
    before = {stage: started.spent(stage) for stage in skipped}
    build(started, skipped)
    assert {stage: started.spent(stage) for stage in skipped} == before
    assert not started.output.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, r"\(seed 0 there, 1 here\); give another `work`"),
        ({"drawings": 13}, r"\(drawings 12 there, 13 here\)"),
        ({"base": Schedule(steps=3, rate=1e-3, warmup=1)}, r"\(base \{'steps': 2.*\} there, \{'steps': 3.*\} here\)"),
    ],
)
def test_the_work_of_another_plan_is_refused(started: BuildPlan, change: dict[str, Any], told: str) -> None:
    """Its stages are done, so that they would be skipped, whatever the seed is."""
    before = {path: path.stat().st_mtime_ns for path in started.work.rglob("*")}
    with pytest.raises(InputError, match=f"holds another build {told}"):
        build(replace(started, **change), TO_PIPELINE)
    assert {path: path.stat().st_mtime_ns for path in started.work.rglob("*")} == before
    build(replace(started, compiled=True, output=started.work / "elsewhere"), [])


def test_the_card_tells_commands_times_and_figures_of_what_is_shipped(tmp_path: Path) -> None:
    """Written from copies of the shipped files, each figure read here by other means."""
    plan = BuildPlan(tmp_path / "work", tmp_path / "out", seed=3)
    stages.claim_work(plan)
    plan.made.mkdir()
    plan.times.write_text(json.dumps({"base": 5400.0, "loras": 90.0}))
    for name in ("judge", "unet"):
        shutil.copytree(MINIATURE_FOLDER / name, plan.made / name)
    trained = {"stage": "longer", "steps": 1234, "rate": 6e-4, "minutes": 67.8, "machine": "an abacus"}
    (plan.made / "trainings.json").write_text(json.dumps([trained]))
    shutil.copy(MINIATURE_FOLDER / "hypernet.safetensors", plan.made)
    build(plan, ["card"])
    card = (plan.made / "README.md").read_text()
    command = f"lorarar miniature build --work {plan.work} --out {plan.output} --seed 3"
    assert f"| base | `{command} --until base` | 90.0 |" in card
    assert "| together, without those below |  | 92 |" in card and str(Path.cwd()) not in card
    assert "| longer | 1234 | 0.0006 | 67.8 | an abacus |" in card
    assert "--until population` | not recorded |" in card and "--until longer` | see below |" in card
    assert str(plan.output / "dataset") in card and str(plan.made) not in card
    assert "--only styles --rank 8 --steps 200 --learning-rate 0.0007 --batch-size 4 --seed 3" in card
    asked = json.loads((MINIATURE_FOLDER / "judge" / "config.json").read_text())["accuracy"]
    worn = asked["subject"]["same kind"]["worn"]
    assert f"| subject | same kind | {asked['subject']['same kind']['as drawn']:.2f} | {worn:.2f} |" in card
    with safe_open(MINIATURE_FOLDER / "hypernet.safetensors", "np") as file:
        record = json.loads(file.metadata()["lorarar_hypernet"])["training"]
    reference = record["validation"]["references"]["direct merge, sum"]
    assert f"| direct merge, sum | {reference:.4f} |" in card and f"{record['steps']} steps" in card
    last = record["validation"]["last"]  # the shipped one keeps the last step's weights
    assert f"| hypernetwork, step 300 of 300 | {last['content'] + last['style']:.4f} |" in card


def test_the_shipped_card_is_what_the_build_writes() -> None:
    """Its lines of commands: those that make the shipped miniature, typed in the repository's folder."""
    plan = BuildPlan(Path("build/miniature"), Path("models/miniature"))
    plan = replace(plan, output=MINIATURE_FOLDER)
    card = (MINIATURE_FOLDER / "README.md").read_text()
    here = f"{MINIATURE_FOLDER.parents[1]}/"
    for command in [*stage_commands(plan, "loras"), *stage_commands(plan, "hypernet")]:
        assert f"`{' '.join(command).replace(here, '')}`" in card


@pytest.mark.parametrize("folder", [MINIATURE_FOLDER, Path("another/folder")])
def test_the_commands_of_the_card_train_with_the_miniature_s_settings_in_any_folder(folder: Path) -> None:
    """A folder's defaults are the paper's: the options must tell all that differs."""
    plan = BuildPlan(Path("work"), folder, seed=5)
    contents, styles = (
        given_settings(train_lora.parser().parse_args(command[2:]), LoraSettings())
        for command in stage_commands(plan, "loras")
    )
    default = replace(default_settings("miniature"), seed=5)
    assert contents == replace(default, rank=6, styled=0.5)
    assert styles == replace(default, steps=200, learning_rate=7e-4)
    (command,) = stage_commands(plan, "hypernet")
    hypernet = given_settings(train.parser().parse_args(command[2:]), HyperSettings())
    assert hypernet == replace(default_hyper_settings("miniature"), seed=5)


@pytest.mark.full
def test_a_whole_build_replaces_the_output_at_its_end(
    started: BuildPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other stages, trainings cut to a step; the judge, whose numbers are fixed, is the shipped one."""
    plan = small_plan(tmp_path)
    for name in ("times.json", "hypernet.safetensors", "dataset/loras/contents/dog_1.safetensors", "old/file"):
        path = plan.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of another build")
    short_lora = LoraSettings(rank=2, steps=1)
    short_training = HyperSettings(steps=1, hidden=4, combinations=None, validation_draws=1, keep="best")
    plan = replace(plan, contents=short_lora, styles=short_lora, hyper=short_training, workers=1)
    stages.claim_work(plan)  # the copied work is of these settings from here on
    shutil.copytree(started.work, plan.work, ignore=shutil.ignore_patterns("plan.json"), dirs_exist_ok=True)
    monkeypatch.setattr(
        stages,
        "build_judge",
        lambda seed, work, folder, **more: shutil.copytree(MINIATURE_FOLDER / "judge", folder),
    )
    build(plan, [name for name in STAGES if name != "publish"])
    assert (plan.output / "hypernet.safetensors").read_text() == "of another build"
    build(plan, list(STAGES))
    assert not (plan.output / "old").exists()
    dataset = read_dataset(plan.output / "dataset")
    assert missing_jobs(dataset) == []
    made = [read_lora(entry.lora) for entry in (*dataset.contents.values(), *dataset.styles.values())]
    assert len(made) == 56 and {lora.metadata["lorarar_base"] for lora in made} == {"miniature"}
    assert load_predictor(plan.output / "hypernet.safetensors").training["base"] == "miniature"
    shipped = {path.relative_to(MINIATURE_FOLDER) for path in MINIATURE_FOLDER.rglob("*") if path.is_file()}
    assert {path.relative_to(plan.output) for path in plan.output.rglob("*") if path.is_file()} == shipped
    assert {name.partition("-")[0] for name in plan.seconds()} == set(STAGES) - {"card", "publish"}  # rounds apart
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "work"]


def test_the_rounds_go_on_from_each_other_and_the_text_encoders_stay(started: BuildPlan, tmp_path: Path) -> None:
    """Two rounds of two steps in one go, and the second alone from where the first ended, are one training."""
    base, *rounds = (open_pipeline(started.work / name) for name in ("base", "longer-1", "longer-2"))
    for one, other in zip([base, *rounds], rounds, strict=False):
        before, after = one.unet.state_dict(), other.unet.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)
        for name in ("text_encoder", "text_encoder_2", "vae"):
            same = getattr(one, name).state_dict(), getattr(other, name).state_dict()
            assert all(torch.equal(same[0][key], same[1][key]) for key in same[0])
    assert [steps_of(started.work / name) for name in ("base", "longer-1", "longer-2")] == [2, 4, 6]
    again = replace(started, work=tmp_path / "work", start=started.work / "longer-1", rounds=1)
    build(again, ["population", "longer"])
    places = again.work / "longer-1", started.work / "longer-2"
    found, wanted = (open_pipeline(place).unet.state_dict() for place in places)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--seed", "-1"], "--seed is -1; give a whole number of 0 or more"),
        (["build", "--until", "nowhere"], "invalid choice"),
        (["build", "--rounds", "-1"], "--rounds is -1; give a whole number of 0 or more"),
        (["build", "--batch", "0"], "--batch is 0; give a whole number of 1 or more"),
        (["build", "--rate", "0"], "--rate is 0"),
        (["build", "--start", "nowhere"], "nowhere: no pipeline in diffusers' layout"),
        (["destroy"], "invalid choice"),
    ],
)
def test_bad_options_are_told(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device is 'cuda', but PyTorch finds no GPU here"):
        main(["build", "--device", "cuda", "--work", str(tmp_path / "work")])
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_folders_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--work", "--out"):
        with pytest.raises(InputError, match="this is a file; give a folder"):
            main(["build", option, str(tmp_path / "file")])


def test_help_lists_the_stages_and_needs_no_toolchain() -> None:
    code = (
        "import sys\nfrom lorarar.commands.miniature import main\n"
        "try:\n    main(['build', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules), 'toolchain loaded'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in result.stdout and text in result.stdout for name, (text, _) in STAGES.items())
