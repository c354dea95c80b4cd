"""The trainings and the evaluation on a GPU, against the same on the CPU: `make test-gpu`, skipped where there is none.

Each run is a process of its own, since accelerate chooses its device once. Draws are made on the CPU, so that both see
the same; what is left is the order of sums.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hyper_world import World
from safetensors.torch import load_file

from lorarar.lora import read_lora

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here"),
]

BOTH = ("gpu", "cpu")


def run(device: str, command: str, *arguments: str | Path) -> None:
    environment = os.environ | {"ACCELERATE_USE_CPU": str(device == "cpu").lower()}
    done = subprocess.run(
        [sys.executable, "-m", f"lorarar.commands.{command}", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_lora(tiny_pipeline: Path, world: World, tmp_path: Path, precision: str) -> None:
    images = world.dataset.contents["content_0"].images
    given = ["--base", tiny_pipeline, "--prompt", "a sks dog", "--images", *images, "--rank", "4", "--steps", "6"]
    given += ["--learning-rate", "1e-3", "--batch-size", "2", "--mixed-precision", precision]
    for device in BOTH:
        run(device, "train_lora", *given, "-o", tmp_path / f"{device}.safetensors")
    loras = [read_lora(tmp_path / f"{device}.safetensors") for device in BOTH]
    for name, layer in loras[0].layers.items():
        want = loras[1].layers[name].delta()
        share = 0.02 if precision == "no" else 0.5  # AdamW's first steps are of one size, whatever the gradient's
        assert np.abs(layer.delta() - want).max() <= share * np.abs(want).max(), name


def test_a_hypernetwork(world: World, tmp_path: Path) -> None:
    given = ["--base", world.base, "--dataset", world.dataset.folder, "--steps", "6", "--hidden", "8"]
    given += ["--batch-pairs", "2", "--combinations", "0", "--validate-every", "3", "--mixed-precision", "no"]
    for device in BOTH:
        run(device, "train", *given, "-o", tmp_path / f"{device}.safetensors")
    have, want = (load_file(tmp_path / f"{device}.safetensors") for device in BOTH)
    for name, weight in want.items():
        torch.testing.assert_close(have[name], weight, rtol=0.02, atol=2e-3)


def test_an_evaluation(world: World, tmp_path: Path) -> None:
    """Its images, which no judge needs to see."""
    from lorarar.evaluation.run import generate_all, open_evaluation
    from lorarar.evaluation.settings import EvaluationSettings

    settings = EvaluationSettings(images=2, steps=2, guidance=3.0)
    methods = dict.fromkeys(("direct", "ssr", "k-lora", "direct-acfg", "schedule"))
    drawn = {}
    for device in ("cuda", "cpu"):
        folder = tmp_path / device
        made = open_evaluation(
            folder, str(world.base), world.dataset, "paper", "test", settings, methods, device=device, dtype="fp32"
        )
        generate_all(made, lambda text, done: None)
        drawn[device] = {path.relative_to(folder): path for path in folder.rglob("*.png")}
        notes = json.loads(next(folder.rglob("pair.json")).read_text())
        assert notes["merge"]["seconds"] > 0
    assert drawn["cuda"].keys() == drawn["cpu"].keys() and len(drawn["cpu"]) >= 10
    from PIL import Image

    for name, path in drawn["cuda"].items():
        with Image.open(path) as one, Image.open(drawn["cpu"][name]) as other:
            assert np.abs(np.asarray(one, int) - np.asarray(other, int)).mean() < 2, name
