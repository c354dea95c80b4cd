"""An evaluation in less than fp32, which is a GPU's default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import save_tiny_evaluation

from lorarar.errors import InputError
from lorarar.evaluation.method_names import METHODS, entry_of
from lorarar.evaluation.run import generate_all, open_evaluation
from lorarar.evaluation.settings import EvaluationSettings
from lorarar.hypernet.checkpoints import load_predictor
from lorarar.training.dataset import read_dataset

NAMES = [*METHODS, "direct-sum-acfg", "direct-composed-start"]

TRAINED = ["joint", "ziplora"]


def drawn(world: Path, folder: Path, dtype: str, names: Sequence[str] = NAMES) -> dict[str, np.ndarray]:
    settings = EvaluationSettings(images=1, steps=2, guidance=3.0, zip_steps=1, joint_steps=1)
    predictor = load_predictor(world / "hyper.safetensors")
    methods = {name: predictor if (entry := entry_of(name)) and entry.hypernet else None for name in names}
    dataset = read_dataset(world / "data")
    made = open_evaluation(
        folder, str(world / "base"), dataset, "paper", "test", settings, methods, device="cpu", dtype=dtype
    )
    generate_all(made, lambda text, done: None)
    paths = sorted(folder.rglob("*.png"))
    return {str(path.relative_to(folder)): np.asarray(Image.open(path), int) for path in paths}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_evaluation(tmp_path_factory.mktemp("world"), (), ("hyper",))


@pytest.fixture(scope="module")
def exact(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return drawn(world, tmp_path_factory.mktemp("fp32"), "fp32")


# Of 255. SSR-Merge, whose numbers come out of the UNet, and ZipLoRA, which trains through it, differ most.
@pytest.mark.parametrize(("dtype", "limit"), [("fp16", 4), ("bf16", 20)])
def test_every_method_draws_nearly_the_same(
    dtype: str, limit: float, world: Path, exact: dict[str, np.ndarray], tmp_path: Path
) -> None:
    names = [name for name in NAMES if dtype == "bf16" or name not in TRAINED]
    less = drawn(world, tmp_path, dtype, names)
    assert {name.split("/")[1] for name in less} == {*names} and less.keys() <= exact.keys()
    for name, image in less.items():
        assert 0 < np.abs(image - exact[name]).mean() < limit, name


@pytest.mark.parametrize("name", TRAINED)
def test_a_cpu_does_not_train_in_fp16(name: str, world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"`dtype` is fp16, in which a CPU can't train {name}; give bf16 or fp32"):
        drawn(world, tmp_path, "fp16", [name])
    assert not any(tmp_path.iterdir())
