"""`lorarar train-lora`: one LoRA, two concepts, whole datasets, several processes, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_training import SETTINGS, largest_difference, same
from safetensors.torch import load_file
from tiny_pipeline import save_image, save_tiny_dataset

from lorarar.base.components import Components, load_components
from lorarar.commands.train_lora import main
from lorarar.errors import InputError
from lorarar.images import find_images
from lorarar.lora import LoRA, read_lora
from lorarar.training.dataset import read_dataset
from lorarar.training.dataset_loras import missing_jobs
from lorarar.training.dreambooth import train_lora

ROOT = Path(__file__).parents[2]


FAST = ["--rank", "4", "--steps", "6", "--learning-rate", "1e-3", "--batch-size", "2"]


def test_command(tiny_pipeline: Path, images: tuple[Path, ...], trained: LoRA, tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "out" / "dog.safetensors"
    common = ["--base", str(tiny_pipeline), "--prompt", "a sks dog", *FAST]
    assert main([*common, "--images", str(images[0].parent), "-o", str(output)]) == 0
    written = read_lora(output)
    assert same(written, trained)
    expected = {"base": "pipeline", "prompt": "a sks dog", "steps": "6", "seed": "0", "rank": "4", "images": "2"}
    assert expected.items() <= {key.removeprefix("lorarar_"): value for key, value in written.metadata.items()}.items()
    shown = " ".join(capsys.readouterr().out.split())
    assert "72 layers of rank 4, fp32" in shown
    assert "→" in shown
    assert any(bar in shown for bar in "▁█")


def test_command_joint(tiny_pipeline: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = read_dataset(tiny_dataset)
    content, style = dataset.contents["content_1"], dataset.styles["style_0"]
    given = ["--images", *map(str, content.images), "--prompt", content.prompt]
    given += ["--style-images", *map(str, style.images), "--style-prompt", style.prompt]
    assert main(["--base", str(tiny_pipeline), *given, *FAST, "-o", str(tmp_path / "joint.safetensors")]) == 0
    joint = train_lora(load_components(str(tiny_pipeline)), [content, style], SETTINGS)
    assert same(read_lora(tmp_path / "joint.safetensors"), joint)


def test_command_dataset(tiny_pipeline: Path, components: Components, tmp_path: Path, capsys: Any) -> None:
    folder = save_tiny_dataset(tmp_path / "data")
    dataset = read_dataset(folder)
    common = ["--base", str(tiny_pipeline), "--dataset", str(folder), *FAST]
    assert main([*common, "--only", "style_1, content_3"]) == 0
    made = sorted(path.name for path in (folder / "loras").iterdir())
    assert made == ["content_3.safetensors", "style_1.safetensors"]
    style = dataset.styles["style_1"]
    assert same(read_lora(style.lora), train_lora(components, [style], SETTINGS))
    capsys.readouterr()
    assert main([*common, "--only", "style_1,content_0", "--rank", "1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "style_1.safetensors was trained with rank 4, not 1; remove it to train it anew" in said
    assert "content_3" not in said
    assert main([*common, "--only", "style_1,content_0,content_3", "--seed", "1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "content_3.safetensors and 1 more were trained with seed 0, not 1; remove them" in said
    assert "content_0.safetensors was trained with" in said and "rank 1, not 4" in said
    dataset.contents["content_0"].lora.unlink()
    style.lora.write_bytes(b"kept")  # what is there is not trained again
    assert [job.name for job in missing_jobs(dataset)] == [
        *("content_0", "content_1", "content_2"),
        *("style_0", "style_2", "style_3"),
    ]
    assert [job.name for job in missing_jobs(dataset, ["styles"])] == ["style_0", "style_2", "style_3"]
    assert [job.name for job in missing_jobs(dataset, ["contents", "style_0"])][2:] == ["content_2", "style_0"]
    capsys.readouterr()
    assert main([*common, "--only", "style_1,content_3"]) == 0
    assert "every LoRA is there; nothing to train" in capsys.readouterr().out
    assert style.lora.read_bytes() == b"kept"


def test_command_dataset_in_processes(tiny_pipeline: Path, components: Components, tmp_path: Path) -> None:
    """Each process trains its own; the sentence of one that fails reaches the user, and the others' files stay."""
    folder = save_tiny_dataset(tmp_path / "data")
    dataset = read_dataset(folder)
    good, bad = dataset.contents["content_0"], dataset.styles["style_1"]
    bad.images[0].write_bytes(b"no image")
    given = ["--base", str(tiny_pipeline), "--dataset", str(folder), *FAST]
    with pytest.raises(InputError, match=r"0\.png: not a whole PNG"):
        main([*given, "--only", f"{good.name},{bad.name}", "--jobs", "2"])
    alone = train_lora(components, [good], SETTINGS)
    assert largest_difference(alone, read_lora(good.lora)) < 1e-2
    assert not bad.lora.exists()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_diverged_training_is_told_in_the_command_s_words(jobs: str, tiny_pipeline: Path, tmp_path: Path) -> None:
    """Its error is made anew with the flags, and in another process it is pickled."""
    folder = save_tiny_dataset(tmp_path / "data")
    given = ["--base", str(tiny_pipeline), "--dataset", str(folder), *FAST, "--only", "content_0,style_1"]
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d; lower --learning-rate"):
        main([*given, "--learning-rate", "1e30", "--jobs", jobs])


ONE = ["--images", "x", "--prompt", "p", "-o", "o.safetensors"]
BAD: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "--images is missing; give --images, --prompt and --out, or --dataset"),
    "no prompt": (["--images", "x"], "--prompt is missing"),
    "no output": (["--images", "x", "--prompt", "p"], "--out is missing"),
    "two modes": (["--dataset", "d", "--prompt", "p"], "--prompt and --dataset exclude each other"),
    "state": (["--dataset", "d", "--state", "s"], "--state and --dataset exclude each other"),
    "only": (["--only", "a"], "--only is for --dataset; give that, or leave --only out"),
    "jobs": (["--dataset", "d", "--jobs", "0"], "--jobs is 0"),
    "no dataset": (["--dataset", "gone"], r"gone/dataset\.json: no such file"),
    "half joint": (["--images", "x", "--prompt", "p", "-o", "o", "--style-prompt", "s"], "needs both --style-images"),
    "every of none": (["--images", "x", "--prompt", "p", "-o", "o", "--state-every", "5"], "every is for --state"),
    "every": (["--images", "x", "--prompt", "p", "-o", "o", "--state", "s", "--state-every", "0"], "-every is 0"),
    "words of none": (["--dataset", "d", "--styles", "oil"], "--styles is for --styled; give that"),
    "class of none": ([*ONE, "--subject-class", "a dog"], "--subject-class is for --styled"),
    "split of none": (["--dataset", "d", "--split", "main"], "--split is for --styled; give that"),
    "split of one": ([*ONE, "--styled", "0.5", "--split", "main"], "--split is for --dataset; give that"),
    "words twice": (
        ["--dataset", "d", "--styled", "0.5", "--styles", "oil", "--split", "main"],
        "--styles are the words that --split would take from the dataset",
    ),
    "styled alone": ([*ONE, "--styled", "0.5"], "--styled needs a --subject-class and --styles, such as 'a dog'"),
    "styled joint": (
        [*ONE, "--styled", "0.5", "--style-images", "y", "--style-prompt", "s"],
        "--styled is of one subject, and joint training learns a style too",
    ),
    "a class of a dataset": (
        ["--dataset", "d", "--styled", "0.5", "--subject-class", "a dog"],
        "--subject-class and --dataset exclude each other",
    ),
    "flag": (["--rnak", "3"], "unrecognized arguments: --rnak 3; see  lorarar train-lora --help"),
}


@pytest.mark.parametrize("case", BAD)
def test_command_refuses(case: str) -> None:
    given, message = BAD[case]
    with pytest.raises(InputError, match=message):
        main(given)


def test_command_refuses_files(tiny_pipeline: Path, images: tuple[Path, ...], tmp_path: Path) -> None:
    base = ["--base", str(tiny_pipeline), "--prompt", "a sks dog"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    picture = str(images[0])
    weights = next((tiny_pipeline / "unet").glob("*.safetensors"))
    for options, message in (
        (["--images", str(tmp_path / "gone"), "-o", "o.safetensors"], "no such image or folder; check the path"),
        (["--images", str(tmp_path / "empty"), "-o", "o.safetensors"], r"no images in this folder; it may hold \.png"),
        (["--images", picture, "-o", "o.bin"], r"end its name with \.safetensors"),
        (["--images", picture, "-o", str(weights)], "would overwrite the input"),
        (["--images", picture, "-o", str(tmp_path)], r"end its name with|this is a folder"),
        (["--images", str(tmp_path / "text.png"), "-o", str(tmp_path / "o.safetensors")], "not a whole PNG"),
        (["--images", picture, "-o", str(tmp_path / "text.png" / "o.safetensors")], "nothing can be written in"),
        (["--images", picture, "-o", str(tmp_path / "o.safetensors"), "--state", str(tmp_path)], "this is a folder"),
        (["--images", picture, "-o", str(tmp_path / "o.safetensors"), "--rank", "0"], "--rank is 0"),
        (["--images", picture, "-o", str(tmp_path / "o.safetensors"), "--resolution", "33"], "resolution of 33"),
    ):
        with pytest.raises(InputError, match=message):
            main([*base, *options])
    with pytest.raises(InputError, match="a prompt is empty; give the LoRA's own"):
        main(
            ["--base", str(tiny_pipeline), "--prompt", " ", "--images", picture, "-o", str(tmp_path / "o.safetensors")]
        )
    assert not list(tmp_path.glob("*.safetensors"))
    dataset = save_tiny_dataset(tmp_path / "data")
    for only, message in (
        ("style_9", "no content or style is named 'style_9'; valid are content_0"),
        (",", "names nothing"),
    ):
        with pytest.raises(InputError, match=message):
            main(["--base", str(tiny_pipeline), "--dataset", str(dataset), "--only", only])
    style = read_dataset(dataset).styles["style_0"].lora
    style.mkdir(parents=True)
    with pytest.raises(InputError, match=r"style_0\.safetensors: this is a folder"):
        main(["--base", str(tiny_pipeline), "--dataset", str(dataset), *FAST, "--only", "content_0,style_0"])
    assert list(style.parent.iterdir()) == [style]  # nor has the one before it been trained


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png"):
        save_image(tmp_path / name, seed=1)
    for other in ("notes.txt", "._a.png", ".03.png.x1.png"):
        (tmp_path / other).write_text("x")
    assert find_images([tmp_path]) == (tmp_path / "a.png", tmp_path / "b.PNG")
    assert find_images([tmp_path / "b.PNG", tmp_path]) == (tmp_path / "b.PNG", tmp_path / "a.png", tmp_path / "b.PNG")


@pytest.mark.full
def test_two_processes_as_one(tiny_pipeline: Path, images: tuple[Path, ...], tmp_path: Path) -> None:
    """Two processes (gloo) that share a batch of 4 take the steps of one process with that batch."""
    given = ["--base", str(tiny_pipeline), "--images", *map(str, images), "--prompt", "a sks dog", *FAST]
    given += ["--batch-size", "4", "--state-every", "6"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--mixed_precision", "no", "--num_machines", "1", "--dynamo_backend", "no", "--main_process_port", "0"]
    launch += ["-m", "lorarar.commands.train_lora", *given, "-o", "two.safetensors", "--state", "two.state"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("72 layers") == 1  # the main process alone speaks
    assert main([*given, "-o", str(tmp_path / "one.safetensors"), "--state", str(tmp_path / "one.state")]) == 0
    losses = [load_file(tmp_path / f"{name}.state")["losses"] for name in ("one", "two")]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    one, two = (read_lora(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert largest_difference(one, two) < 1e-2
    assert not same(one, two)  # means of halves round otherwise: a single process would give the same bits


@pytest.mark.full
def test_full_size_dry_run(images: tuple[Path, ...], tmp_path: Path) -> None:
    """One step on KOALA-700M's sizes: the path that a GPU takes, in under 12 GB."""
    code = (
        "import sys; from lorarar.commands.train_lora import main; main(sys.argv[1:]); "
        "from benchmarks.processes import peak_bytes; print('peak', peak_bytes() / 1e9)"
    )
    given = ["--base", "koala-700m", "--untrained", "--resolution", "64", "--steps", "1", "--mixed-precision", "bf16"]
    given += [
        "--gradient-checkpointing",
        "--images",
        *map(str, images),
        "--prompt",
        "a sks dog",
        "-o",
        "koala.safetensors",
    ]
    run = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split("peak")[1]) < 12
    lora = read_lora(tmp_path / "koala.safetensors")
    assert (len(lora.layers), lora.max_rank) == (168, 64)
    assert json.loads(lora.metadata["lorarar_steps"]) == 1
    shutil.rmtree(tmp_path)
