"""The command that replaces a hypernetwork by its means: what it writes, that merges and exports take it, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hyper_world import World

from lorarar.commands.evaluate import main as evaluate
from lorarar.commands.means import main
from lorarar.commands.merge import main as merge
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import load_predictor, save_hypernet
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig, Hypernetwork
from lorarar.hypernet.storage import HYPERNETWORK, Provenance, write_checkpoint
from lorarar.layout import kind_of
from lorarar.lora import LoRA, read_lora, write_lora
from lorarar.merging import learned_options, merge_loras
from lorarar.training.dataset import read_dataset

RECORD = {"dataset": "tiny", "split": "paper", "steps": 6}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network of two kinds whose coefficients are others for every pair."""
    path = tmp_path / "network.safetensors"
    save_hypernet(Hypernetwork.untrained(HypernetConfig((32, 48), 8, "sum", ("q", "out")), 3), path, RECORD)
    return path


def command(world: World, network: Path, out: Path, *more: str) -> int:
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), "--hypernet", str(network)]
    return main([*given, "-o", str(out), *more])


def expected(world: World, network: Path) -> dict[str, np.ndarray]:
    """The mean over pairs of the mean over layers and columns of what the network gives, over all training pairs."""
    options = learned_options(load_predictor(network).predictor)
    by_pair: dict[str, list[np.ndarray]] = {"q": [], "out": []}
    contents, styles = world.dataset.part("paper", "train")
    for content in contents:
        for style in styles:
            merged = merge_loras(read_lora(content.lora), read_lora(style.lora), world.layout, "learned", options)
            for kind, values in by_pair.items():
                own = [pair for name, pair in (merged.coefficients or {}).items() if kind_of(name) == kind]
                values.append(np.mean([pair.mean(axis=1) for pair in own], axis=0))
    return {kind: np.mean(values, axis=0) for kind, values in by_pair.items()}


def test_the_means_are_written_and_merge_as_such(
    world: World, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, merged = tmp_path / "means.safetensors", tmp_path / "merged.safetensors"
    assert command(world, network, out) == 0
    loaded, want = load_predictor(out), expected(world, network)
    assert isinstance(loaded.predictor, ConstantCoefficients) and loaded.trained
    assert loaded.predictor.config == ConstantConfig("sum", ("q", "out"))
    means = loaded.predictor.constants()
    assert set(means) == set(want)
    for kind, pair in means.items():
        np.testing.assert_allclose(pair, want[kind], rtol=1e-5)
    assert out.stat().st_size < network.stat().st_size
    said = " ".join(capsys.readouterr().out.split())
    assert "means.safetensors: 4 numbers, the same for every pair" in said and f"{means['q'][0]:.3f} (" in said

    files = [world.dataset.contents["content_0"].lora, world.dataset.styles["style_0"].lora]
    given = ["--base", str(world.base), "--hypernet", str(out), "-o", str(merged)]
    assert merge([*map(str, files), *given]) == 0
    content, style = map(read_lora, files)
    for name, layer in read_lora(merged).layers.items():
        m_c, m_s = means.get(str(kind_of(name)), (1.0, 1.0))
        delta = m_c * content.layers[name].delta() + m_s * style.layers[name].delta()
        np.testing.assert_allclose(layer.delta(), delta, atol=1e-6)


def test_a_few_pairs_are_chosen_by_the_seed_and_recorded(world: World, network: Path, tmp_path: Path) -> None:
    records = []
    for seed in ("0", "0", "1"):
        out = tmp_path / f"{len(records)}.safetensors"
        assert command(world, network, out, "--pairs", "2", "--seed", seed) == 0
        records.append(load_predictor(out).training)
    assert records[0] == records[1]
    assert records[0]["means"]["pairs"] != records[2]["means"]["pairs"]
    assert {name: records[0][name] for name in RECORD} == RECORD
    assert records[0]["means"]["hypernet"] == load_predictor(network).sha256
    assert len(records[0]["means"]["pairs"]) == 2


def test_means_are_not_evaluated_on_the_pairs_that_they_are_of(world: World, network: Path, tmp_path: Path) -> None:
    """Another split's than the network's, whose training part has what the evaluated part tests."""
    folder, out = tmp_path / "dataset", tmp_path / "means.safetensors"
    shutil.copytree(world.dataset.folder, folder)
    told = json.loads((folder / "dataset.json").read_text())
    (split,) = told["splits"].values()
    turned = {role: {**parts, "train": parts["test"], "test": parts["train"]} for role, parts in split.items()}
    told["splits"]["turned"] = turned
    (folder / "dataset.json").write_text(json.dumps(told))
    given = ["--base", str(world.base), "--dataset", str(folder)]
    assert main([*given, "--hypernet", str(network), "--split", "turned", "-o", str(out)]) == 0
    given += ["--methods", "learned", "--hypernet", str(out), "--judge", "miniature"]
    with pytest.raises(InputError, match=r"means\.safetensors was trained on the split 'turned'"):
        evaluate([*given, "-o", str(tmp_path / "run")])


def without(lora: LoRA, kind: str) -> LoRA:
    return LoRA({name: layer for name, layer in lora.layers.items() if kind_of(name) != kind})


def test_what_has_no_means_is_refused_and_nothing_is_written(world: World, network: Path, tmp_path: Path) -> None:
    out, constant, random = (tmp_path / f"{name}.safetensors" for name in ("out", "constant", "random"))
    save_hypernet(ConstantCoefficients(), constant)
    untrained = Hypernetwork.untrained(HypernetConfig((32, 48), 8, "sum", ("q", "out")), 3)
    made = Provenance(random.name, "", trained=False)
    write_checkpoint(random, HYPERNETWORK, untrained.state_dict(), untrained.config.to_json(), made)
    for given, says in ((constant, "constant coefficients, the same for every pair"), (random, "has random weights")):
        with pytest.raises(InputError, match=says):
            command(world, given, out)
    with pytest.raises(InputError, match="would overwrite the input"):
        command(world, network, network)
    with pytest.raises(InputError, match=r"end its name with \.safetensors"):
        command(world, network, tmp_path / "means.bin")
    with pytest.raises(InputError, match="--pairs is 0"):
        command(world, network, out, "--pairs", "0")
    assert not out.exists()


def test_loras_that_share_no_layer_of_a_learned_kind_are_refused(world: World, network: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(world.dataset.folder, folder)
    for content in read_dataset(folder).contents.values():
        write_lora(without(read_lora(content.lora), "q"), content.lora)
    with pytest.raises(InputError, match=r"no pair of the training LoRAs shares a q layer, which the hypernetwork"):
        command(world, network, tmp_path / "out.safetensors", "--dataset", str(folder))
