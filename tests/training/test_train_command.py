"""The command that trains a hypernetwork: what it writes and refuses, processes side by side, and KOALA's size."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hyper_world import World
from safetensors import safe_open
from safetensors.torch import load_file

from lorarar.commands.merge import main as merge_main
from lorarar.commands.train import main
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import load_predictor
from lorarar.hypernet.network import ConstantCoefficients, ConstantConfig, HypernetConfig
from lorarar.layout import kind_of
from lorarar.lora import read_lora
from lorarar.training.history import History

ROOT = Path(__file__).parents[2]
FAST_FLAGS = ["--steps", "6", "--hidden", "8", "--batch-pairs", "2", "--validate-every", "2"]
FAST_FLAGS += ["--validation-draws", "1", "--combinations", "0"]


def command(world: World, output: Path, *more: str) -> int:
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), *FAST_FLAGS, *more]
    return main([*given, "-o", str(output)])


def test_the_command_writes_a_checkpoint_with_every_option_and_the_curves(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--lambda", "0.5", "--regulariser", "cosine", "--distance", "l2", "--kv-rule", "sum", "--learned", "out,q"]
    assert command(world, tmp_path / "h.safetensors", *more, "--keep", "best", "--seed", "4") == 0
    loaded = load_predictor(tmp_path / "h.safetensors")
    assert loaded.trained and loaded.predictor.config == HypernetConfig((32, 48), 8, "sum", ("q", "out"))
    record = loaded.training
    assert record["loss"] == {
        **{"distance": "l2", "regulariser": "cosine", "weight": 0.5},
        **{"joint": "none", "joint_weight": 1.0, "joint_style": 1.0, "joint_guidance": 1.0},
    }
    expected = {"steps": 6, "learning_rate": 0.01, "seed": 4, "dataset": "tiny", "split": "paper", "pairs": 6}
    expected |= {"base": world.base.name, "validation_pairs": 1, "kv_rule": "sum", "learned": ["q", "out"]}
    assert {name: record[name] for name in expected} == expected
    assert record["validation"]["best"]["step"] == record["kept_step"]
    assert not any(str(tmp_path.parent) in str(value) for value in record.values())  # no path of this machine
    with (tmp_path / "h.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["part"] == "validation"] == ["0", "2", "4", "6"]
    assert [row["step"] for row in rows if row["part"] == "train"] == ["1", "2", "3", "4", "5", "6"]
    assert (tmp_path / "h.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    said = " ".join(capsys.readouterr().out.split())
    assert "6 of tiny, split paper, 2 a step" in said and "direct merge, average" in said
    assert "the best, of step" in said and "l2, λ 0.5 × cosine" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.csv", "h.png", "h.safetensors"]


def test_a_constant_checkpoint_merges(world: World, tmp_path: Path) -> None:
    output = tmp_path / "constant.safetensors"
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), *FAST_FLAGS]
    del given[given.index("--hidden") : given.index("--hidden") + 2]
    given += ["--predictor", "constant", "--learned", "q,v", "--learning-rate", "0.1"]
    assert main([*given, "-o", str(output)]) == 0
    loaded = load_predictor(output)
    assert isinstance(loaded.predictor, ConstantCoefficients)
    constants = loaded.predictor.constants()
    assert set(constants) == {"q", "v"} and loaded.predictor.config == ConstantConfig("average", ("q", "v"))
    files = [str(world.dataset.folder / "loras" / f"{name}_0.safetensors") for name in ("content", "style")]
    arguments = ["--base", str(world.base), "--hypernet", str(output), "-o", str(tmp_path / "m.safetensors")]
    assert merge_main([*files, *arguments]) == 0
    merged, content, style = (read_lora(Path(path)) for path in (tmp_path / "m.safetensors", *files))
    for name, layer in merged.layers.items():
        m_c, m_s = constants.get(str(kind_of(name)), (0.5, 0.5))
        want = m_c * content.layers[name].delta() + m_s * style.layers[name].delta()
        np.testing.assert_allclose(layer.delta(), want, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--learned", "q,mlp"], "--learned is 'q,mlp'; give one or more of q,k,v,out"),
        (["--kv-rule", "max"], "--kv-rule is 'max'; valid are average, sum"),
        (["--lambda", "-1"], "--lambda is -1.0; give a number of 0 or more"),
        (["--learning-rate", "0"], "--learning-rate is 0.0; give a positive number"),
        (["--warmup", "6"], "--warmup is 6; give 0 or more steps, fewer than the 6 of --steps"),
        (["--batch-pairs", "3", "--accumulation", "2"], "give a --batch-pairs that is a multiple of 2"),
        (["--split", "none"], "has no split 'none'; valid are paper"),
        (["--predictor", "oracle"], "invalid choice: 'oracle'"),
        (["--predictor", "constant"], "leave --hidden out"),
        (["--predictor", "constant", "--no-positions", "--normalise", "--hidden", "0"], "leave --normalise out"),
        (["--joint-guidance", "3"], "--joint-guidance is of the joint term"),
        (["--resolution", "0"], "a --resolution of 0 doesn't fit this base"),
        (["--regulariser", "none", "--lambda", "1"], "leave --lambda out"),
        (["--joint-weight", "2"], "--joint-weight is of the joint term; leave it out, or give --joint"),
        (["--joint", "images", "--joint-style", "2"], "leave it out, or give --joint composed"),
        (["--joint", "images"], "the joint term 'images' needs a folder of images; give --joint-images"),
        (["--joint-images", "."], "the joint term 'none' takes no --joint-images; leave it out"),
        (["--joint", "images", "--joint-images", "nowhere"], "nowhere: no such folder"),
        (["--joint", "images", "--joint-images", "."], r"no folder CONTENT--STYLE of a training pair in it"),
        (["--column-rate", "0.1"], "leave it out, or give --columns"),
        (["--columns", "--column-rate", "0"], "--column-rate is 0.0; give a positive number"),
        (["--state-every", "5"], "--state-every is for --state"),
        (["--state", "s", "--state-every", "0"], "--state-every is 0"),
        (["--initial", "nan"], "--initial is nan; give a finite number"),
        (["--combinations", "-3"], "--combinations is -3; give a whole number"),
    ],
)
def test_bad_options_are_refused(world: World, flags: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        command(world, tmp_path / "h.safetensors", *flags)
    assert says in " ".join(str(error.value).split())
    assert list(tmp_path.iterdir()) == []


def test_another_base_needs_a_dataset_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a dataset for sdxl is needed: give --dataset"):
        main(["--base", "sdxl", "--untrained", "-o", str(tmp_path / "h.safetensors")])


def test_bad_outputs_and_datasets_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "text").write_text("a file")
    (tmp_path / "curves.csv").mkdir()
    first = world.dataset.contents["content_0"]
    for output, says in (
        (tmp_path / "h.pt", r"a checkpoint is .* end its name with \.safetensors"),
        (tmp_path / "folder.safetensors", "this is a folder"),
        (tmp_path / "text" / "h.safetensors", "nothing can be written in"),
        (first.lora, "would overwrite the input"),
        (first.images[0].with_suffix(".safetensors"), r"0\.png: writing there would overwrite the input"),
        (tmp_path / "curves.safetensors", r"curves\.csv: this is a folder"),
    ):
        with pytest.raises(InputError, match=says):
            command(world, output)
    for name in ("h.safetensors", "h.csv", "h.png"):
        with pytest.raises(InputError, match="--state is a file that --out is written to"):
            command(world, tmp_path / "h.safetensors", "--state", str(tmp_path / name))
    copy = Path(shutil.copytree(world.dataset.folder, tmp_path / "copy"))
    raw = json.loads((copy / "dataset.json").read_text())
    (copy / "loras" / "content_1.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of 7 LoRA files are missing \(content_1\); make them with"):
        main(["--base", str(world.base), "--dataset", str(copy), "-o", str(tmp_path / "h.safetensors")])
    damage: list[tuple[Callable[[dict], object], list[str], str]] = [
        (lambda part: part["contents"].update(train=[]), [], "has no contents or no styles to train on"),
        (lambda part: part["contents"].update(validation=[]), ["--keep", "best"], "--keep best needs validation pairs"),
    ]
    shutil.copy(world.dataset.contents["content_1"].lora, copy / "loras")
    for change, flags, says in damage:
        changed = json.loads(json.dumps(raw))
        change(changed["splits"]["paper"])
        (copy / "dataset.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=says):
            main(["--base", str(world.base), "--dataset", str(copy), *flags, "-o", str(tmp_path / "h.safetensors")])
    assert not list(tmp_path.glob("h.*"))


def test_curves_that_cannot_be_written_lose_no_training(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(History, "write_csv", full)
    with pytest.raises(OSError, match="full"):
        command(world, tmp_path / "h.safetensors")
    assert load_predictor(tmp_path / "h.safetensors").trained


def test_more_datasets_are_trained_on_as_one(world: World, tmp_path: Path) -> None:
    """A dataset cut in two gives the same network; the second has no validation part of its own."""
    for name, entries in {
        "a": {"content_0", "content_3", "style_0", "style_2"},
        "b": {"content_1", "content_2", "style_1"},
    }.items():
        described = Path(shutil.copytree(world.dataset.folder, tmp_path / name)) / "dataset.json"
        raw = json.loads(described.read_text())
        for side in ("contents", "styles"):
            raw[side] = [entry for entry in raw[side] if entry["name"] in entries]
            parts = raw["splits"]["paper"][side]
            raw["splits"]["paper"][side] = {part: [each for each in parts[part] if each in entries] for part in parts}
        described.write_text(json.dumps(raw | {"name": name}))
    assert command(world, tmp_path / "whole.safetensors") == 0
    given = ["--base", str(world.base), "--dataset", str(tmp_path / "a"), "--more", str(tmp_path / "b"), *FAST_FLAGS]
    assert main([*given, "-o", str(tmp_path / "joined.safetensors")]) == 0
    whole, joined = (load_predictor(tmp_path / f"{name}.safetensors") for name in ("whole", "joined"))
    assert (joined.training["dataset"], joined.training["pairs"]) == ("a + b", whole.training["pairs"])
    for name, value in whole.predictor.state_dict().items():
        assert torch.equal(joined.predictor.state_dict()[name], value)
    with pytest.raises(InputError, match="another dataset has an entry 'content_0' too"):
        command(world, tmp_path / "h.safetensors", "--more", str(world.dataset.folder))


def test_two_processes_as_one(world: World, tmp_path: Path) -> None:
    """Two processes (gloo) that share a batch of 4 pairs take the steps of one process with that batch."""
    given = ["--base", str(world.base), "--dataset", str(world.dataset.folder), *FAST_FLAGS, "--batch-pairs", "4"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--num_machines", "1", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["-m", "lorarar.commands.train", *given, "-o", "two.safetensors"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("2 processes") == 1  # the main process alone speaks
    assert main([*given, "-o", str(tmp_path / "one.safetensors")]) == 0
    curves = []
    for name in ("one", "two"):
        with (tmp_path / f"{name}.csv").open() as file:
            curves.append(np.array([list(row.values())[1:] for row in csv.DictReader(file)], float))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4, atol=1e-6)
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-3)
    assert any(not torch.equal(two[name], value) for name, value in one.items())  # means of halves round otherwise


@pytest.mark.full
def test_full_size_dry_run(tmp_path: Path) -> None:
    """One step with KOALA-700M's sizes and LoRAs of rank 64: a GPU's path, in under 8 GB (measured 5.0)."""
    from tiny_pipeline import save_tiny_dataset

    from lorarar.base.names import load_layout
    from lorarar.lora import write_lora
    from lorarar.synthetic import synthetic_lora

    layout = load_layout("koala-700m")
    folder = save_tiny_dataset(tmp_path / "dataset", contents=3, styles=3)
    (folder / "loras").mkdir()
    for number, name in enumerate(["content_0", "content_1", "style_0", "style_1"]):
        write_lora(synthetic_lora(layout, 64, number, 1e-3), folder / "loras" / f"{name}.safetensors", dtype="bf16")
    code = (
        "import sys; from lorarar.commands.train import main; main(sys.argv[1:]); "
        "from benchmarks.processes import peak_bytes; print('peak', peak_bytes() / 1e9)"
    )
    given = ["--base", "koala-700m", "--untrained", "--dataset", "dataset", "--resolution", "64", "--steps", "1"]
    given += ["--mixed-precision", "bf16", "--gradient-checkpointing", "--validation-draws", "1"]
    arguments = [sys.executable, "-c", code, *given, "-o", "koala.safetensors"]
    run = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    print(run.stdout)
    assert float(run.stdout.split("peak")[1]) < 8
    with safe_open(tmp_path / "koala.safetensors", framework="pt") as file:
        assert sum(file.get_tensor(name).numel() for name in file.keys()) == 492_034  # noqa: SIM118
    shutil.rmtree(tmp_path)
