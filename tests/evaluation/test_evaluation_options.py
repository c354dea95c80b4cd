"""What an evaluation's options reach, and which files a method's kept images are valid for."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pipeline import save_tiny_evaluation

from lorarar import merging
from lorarar.base.names import DATASET_FOLDER, MINIATURE, MINIATURE_FOLDER, choose_checkpoint
from lorarar.commands.evaluate import main
from lorarar.errors import InputError
from lorarar.evaluation import methods
from lorarar.evaluation.run import Evaluation, generate_all, open_evaluation
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.hypernet.checkpoints import load_predictor, save_hypernet
from lorarar.lora import LoRA, LoraLayer, read_lora, write_lora
from lorarar.training.dataset import DATASET_FILE, merged_prompt, read_dataset

FILES = {
    "direct": {"loras"},
    "joint": {"images"},
    "ziplora": {"loras", "images"},
    "composed": {"loras"},
    "dare": {"loras"},
    "joint-composed-start": {"loras", "images"},
}
"""What each method's images depend on besides the pair's words."""
DRAWN, TAUGHT = 32, 48  # sides of the tiny base's images and of the dataset's


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An evaluation whose numbers all differ, on a dataset of images of another size than the base's."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_evaluation(folder, ("contents",), ())
    described = folder / "data" / "dataset.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | {"resolution": TAUGHT}))
    settings = EvaluationSettings(
        images=1, steps=3, guidance=4.0, seed=11, zip_steps=7, joint_steps=9, composed_share=0.25
    )
    dataset, wanted = read_dataset(folder / "data"), dict.fromkeys(FILES)
    return open_evaluation(
        folder / "run", str(folder / "base"), dataset, "paper", "test", settings, wanted, device="cpu", dtype="fp32"
    )


def test_a_checkpoint_is_not_evaluated_on_what_it_learned_from(tmp_path: Path) -> None:
    """The shipped one learned from the split of the paper, whose training part has some of this split's test."""
    given = ["--split", "animals-to-objects", "-o", str(tmp_path / "run"), "--methods"]
    with pytest.raises(InputError, match=r"was trained on the split 'paper', with 9 of the contents and styles"):
        main([*given, "learned"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "trained_on"), [("mine", "mine"), ("mine", "yours + mine"), ("mine + yours", "mine + yours + theirs")]
)
def test_a_dataset_that_was_trained_on_beside_others_is_known_by_its_name(
    name: str, trained_on: str, tmp_path: Path
) -> None:
    """Also one whose own name looks like that of two."""
    shipped, data, checkpoint = MINIATURE_FOLDER / DATASET_FOLDER, tmp_path / "data", tmp_path / "h.safetensors"
    for part in ("images", "loras"):
        shutil.copytree(shipped / part, data / part)
    described = json.loads((shipped / DATASET_FILE).read_text()) | {"name": name}
    (data / DATASET_FILE).write_text(json.dumps(described))
    loaded = load_predictor(choose_checkpoint(MINIATURE, None))
    save_hypernet(loaded.predictor, checkpoint, dict(loaded.training) | {"dataset": trained_on})
    given = ["--dataset", str(data), "--split", "animals-to-objects", "--hypernet", str(checkpoint)]
    with pytest.raises(InputError, match=r"was trained on the split 'paper', with 9 of the contents and styles"):
        main([*given, "--methods", "learned", "-o", str(tmp_path / "run")])


def test_every_option_reaches_what_it_is_for(opened: Evaluation) -> None:
    bench, sampling = opened.bench, opened.sampler.sampling
    assert (sampling.steps, sampling.guidance, sampling.seed) == (3, 4.0, 11)
    assert (bench.joint.steps, bench.joint.seed) == (9, 11)
    assert (bench.zip.steps, bench.zip.seed) == (7, 11)
    assert (bench.seed, bench.composed_share) == (11, 0.25)
    facts = {method.name: method.facts for method in opened.methods}
    assert facts["joint-composed-start"]["composed_share"] == 0.25
    assert (facts["joint"]["steps"], facts["ziplora"]["steps"]) == (9, 7)


@pytest.mark.parametrize("name", ["joint", "ziplora"])
def test_a_training_that_diverges_is_told_with_its_pair(name: str, opened: Evaluation, tmp_path: Path) -> None:
    """Its learning rate is no option of an evaluation, so the training's own advice would help nobody."""
    fast = {"learning_rate": 1e30}
    bench = replace(opened.bench, joint=replace(opened.bench.joint, **fast), zip=replace(opened.bench.zip, **fast))
    method = next(method for method in opened.methods if method.name == name)
    content, style = pair = opened.pairs[0]
    only = replace(opened, folder=tmp_path, bench=bench, methods=[method], pairs=[pair])
    message = rf"{name}: {content.name} in {style.name}: the loss is (nan|inf) at step \d.*; leave {name} out"
    with pytest.raises(InputError, match=message):
        generate_all(only, lambda text, done: None)
    assert not list(tmp_path.iterdir())


def test_methods_that_train_do_so_at_the_dataset_s_size_and_all_others_at_the_drawn_one(opened: Evaluation) -> None:
    """A prompt is encoded with the size of its image, which the UNet is told."""
    assert opened.bench.components.resolution == DRAWN
    assert opened.bench.training.resolution == TAUGHT
    facts = {method.name: method.facts for method in opened.methods}
    assert facts["joint"]["resolution"] == facts["ziplora"]["resolution"] == TAUGHT


@pytest.mark.parametrize("name", FILES)
def test_kept_images_are_of_the_files_that_the_method_looks_at(name: str, opened: Evaluation) -> None:
    content, style = opened.pairs[0]
    of = {"loras": [content.lora, style.lora], "images": [*content.images, *style.images]}
    method = next(method for method in opened.methods if method.name == name)
    wanted = [path for kind in ("loras", "images") if kind in FILES[name] for path in of[kind]]
    found = opened.place(method, content, style).facts["files"]
    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted]


def test_kept_images_are_of_the_words_that_they_were_drawn_with(opened: Evaluation) -> None:
    (method, *_), (content, style) = opened.methods, opened.pairs[0]
    facts = opened.place(method, content, style).facts
    assert (facts["prompt"], facts["prompts"]) == (merged_prompt(content, style), [content.prompt, style.prompt])
    for name in ("composed", "direct-composed-start"):  # the class is asked alone there
        composes = methods.prepare(name, opened.bench)
        assert opened.place(composes, content, style).facts["prompts"][2:] == [content.class_prompt]


def test_methods_that_draw_at_random_draw_anew_for_each_pair(
    opened: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one draw's luck would be in all pairs, and in no interval. Another run of the same seed draws the same."""
    seeds: dict[str, list[int]] = {"dare": [], "ziplora": []}

    def merge(*given: Any) -> None:
        seeds["dare"].append(given[-1].seed)
        raise KeyboardInterrupt

    def optimise(*given: Any, **_: Any) -> None:
        seeds["ziplora"].append(given[-1].seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "merge_loras", merge)
    monkeypatch.setattr(methods, "ziplora", optimise)
    for method in opened.methods:
        for pair in [*opened.pairs, opened.pairs[0]] if method.name in seeds else ():
            with pytest.raises(KeyboardInterrupt):
                method.make(opened.bench, *pair)
            assert method.facts["drawn"] == "by pair"
    for drawn in seeds.values():
        assert drawn[-1] == drawn[0] and len(set(drawn)) == len(opened.pairs) > 1


def test_results_tell_their_base_and_files(opened: Evaluation) -> None:
    """Runs of one dataset's name are pooled only where its LoRAs and images are the same."""
    before, lora = opened.describe(), opened.pairs[0][0].lora
    assert replace(opened, digest=lambda path: path.name).describe()["base_digest"] == before["base_digest"]
    other = replace(opened, digest=lambda path: "another" if path == lora else opened.digest(path)).describe()
    assert {name for name, value in other.items() if value != before[name]} == {"files_digest"}


def test_loras_of_another_base_are_refused_before_any_work(tmp_path: Path) -> None:
    """Joint training, which needs no LoRA, would come first and take hours."""
    save_tiny_evaluation(tmp_path, ("contents",), ())
    dataset = read_dataset(tmp_path / "data")
    of_the_miniature = MINIATURE_FOLDER / "dataset" / "loras" / "contents" / "dog_1.safetensors"
    shutil.copy(of_the_miniature, dataset.part("paper", "test")[0][-1].lora)
    given = ["--base", str(tmp_path / "base"), "--dataset", str(tmp_path / "data"), "--judge", "miniature"]
    with pytest.raises(InputError, match="made for another base model"):
        main([*given, "--methods", "joint,direct", "-o", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("layer", "method", "says"),
    [
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", "direct", "1 of its .* are no layers of this"),
        ("unet.conv_in", "learned-acfg", "1 of its .* are no linears of this"),
        ("unet.conv_in", "composed", "1 of its .* are no linears of this"),
    ],
)
def test_layers_that_a_method_can_t_draw_with_are_refused_before_any_work(
    layer: str, method: str, says: str, tmp_path: Path
) -> None:
    """A text encoder's, and a convolution's where LoRAs are put beside linears: some methods draw with one."""
    save_tiny_evaluation(tmp_path, ("contents",), ("hypernet",))
    file = read_dataset(tmp_path / "data").part("paper", "test")[0][-1].lora
    lora = read_lora(file)
    down, up = ((1, 4, 3, 3), (16, 1, 1, 1)) if layer == "unet.conv_in" else ((1, 32), (32, 1))
    made = LoraLayer(np.ones(down, np.float32), np.ones(up, np.float32))
    write_lora(LoRA({**lora.layers, layer: made}), file)
    given = ["--base", str(tmp_path / "base"), "--dataset", str(tmp_path / "data"), "--judge", "miniature"]
    given += ["--hypernet", str(tmp_path / "hypernet.safetensors")] if method.startswith("learned") else []
    with pytest.raises(InputError, match=re.escape(file.name) + ": " + says):
        main([*given, "--methods", f"joint,{method}", "-o", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_another_base_needs_a_dataset_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a dataset for my-sdxl is needed: give --dataset"):
        main(["--base", "my-sdxl", "--judge", "llava", "--methods", "direct", "-o", str(tmp_path / "run")])
