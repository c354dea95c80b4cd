"""The names, seeds and fingerprints of an evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from scripted import ScriptedJudge

from lorarar.base.components import fingerprint
from lorarar.commands.evaluate import main
from lorarar.errors import InputError
from lorarar.evaluation.generate import Sampler, Sampling, image_seeds
from lorarar.evaluation.judging import Swap, judge_kept
from lorarar.evaluation.method_names import parse_hypernets
from lorarar.evaluation.methods import Workbench
from lorarar.evaluation.run import Evaluation
from lorarar.training.dataset import Content, Style, pair_folder, safe_name


def test_seeds_are_the_pairs_own_and_grow_with_the_images() -> None:
    assert image_seeds(0, "dog", "ink", 3) == image_seeds(0, "dog", "ink", 5)[:3]
    assert (
        len({*image_seeds(0, "dog", "ink", 5), *image_seeds(0, "cat", "ink", 5), *image_seeds(1, "dog", "ink", 5)})
        == 15
    )


def test_safe_names() -> None:
    assert safe_name("dog_1.x-y") == "dog_1.x-y"
    names = {safe_name(name) for name in ("../a", "..", "a/b", "a b", "a_b", "犬", "猫", "a--b", "a-", "-b", "---")}
    assert len(names) == 11
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_pairs_have_folders_of_their_own() -> None:
    pairs = [("a--b", "c"), ("a", "b--c"), ("a-", "b"), ("a", "-b"), ("a---b", "c"), ("a", "b")]
    assert len({pair_folder(Path(), *pair) for pair in pairs}) == len(pairs)


def test_fingerprint_tells_weights_apart() -> None:
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)


def test_bases_of_the_same_weights_are_told_apart_by_their_configs(tiny_pipeline: Path, tmp_path: Path) -> None:
    def base(folder: Path) -> Mapping[str, str]:
        sampler = Sampler.load(Sampling(str(folder), 1, 1.0, 0), "cpu", 1)
        return Evaluation(tmp_path, Mock(spec=Workbench), sampler, (), "test", (), 1).base

    before, folder = base(tiny_pipeline), shutil.copytree(tiny_pipeline, tmp_path / "base")
    assert base(folder) == before  # wherever it lies
    for file, change in (
        ("model_index.json", {"force_zeros_for_empty_prompt": False}),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}),
        ("text_encoder/config.json", {"layer_norm_eps": 1e-3}),
        ("unet/config.json", {"norm_eps": 1e-3}),
        ("vae/config.json", {"scaling_factor": 0.5}),
    ):
        kept = (folder / file).read_text()
        (folder / file).write_text(json.dumps(json.loads(kept) | change))
        found = base(folder)
        assert {name for name in found if found[name] != before.get(name)} == {"configs"}, file
        (folder / file).write_text(kept)


@pytest.mark.parametrize(
    "name",
    [
        "dare-composed-start-acfg",
        "k-lora-acfg",
        "learned-acfg-acfg",
        "-acfg",
        "x-composed-start-acfg",
        "ties-style-2-acfg-acfg",
        "x-style-0.6-acfg",
        "TIES",
        "Direct merge-acfg",
    ],
)
def test_a_checkpoint_has_a_name_of_its_own(name: str) -> None:
    """Any other draws a method that never sees the checkpoint, or has no such sampling."""
    assert parse_hypernets("x=a,x-acfg=a,x-composed-start=a") == dict.fromkeys(["x", "x-acfg", "x-composed-start"], "a")
    with pytest.raises(InputError, match=f"'{name}' names no checkpoint; give a name that no method has"):
        parse_hypernets(f"{name}=x.safetensors")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--methods", "direct"], "--judge is missing: give a vision-language model's"),
        (["--methods", "direct,learned", "--judge", "j"], "a hypernetwork for sdxl-folder is needed: give --hypernet"),
    ],
)
def test_another_base_gets_nothing_of_the_miniatures(given: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        main(["--base", "sdxl-folder", *given, "-o", str(tmp_path / "run")])


@pytest.mark.parametrize("broken", ["subject", "style"])
def test_a_judges_answer_that_is_no_number_is_told_and_not_kept(broken: str, tmp_path: Path) -> None:
    picture = tmp_path / "00.png"
    Image.new("RGB", (8, 8)).save(picture)
    said = {"subject": 0.5, "style": 0.5, broken: float("nan")}
    judge = ScriptedJudge(lambda _: said["subject"], lambda _: said["style"])
    content = Content("dog", "dog", "sks", "", (picture,), picture)
    style = Style("ink", "ink", "", "house", (picture,), picture)
    with pytest.raises(InputError, match="no number"):
        judge_kept(judge, None, {"00.png": picture}, content, style, Swap(None, None))
    assert [path.name for path in tmp_path.iterdir()] == ["00.png"]
