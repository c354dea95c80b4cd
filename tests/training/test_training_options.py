"""That the options of both trainings reach their steps: decay, clipping, mirrored images, and what a state is of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hyper_world import World
from lora_training import SETTINGS, largest_difference, same, train
from PIL import Image, ImageOps

from lorarar.base.components import Components
from lorarar.commands.train import main
from lorarar.errors import InputError
from lorarar.training import dreambooth, trainer
from lorarar.training.hyper_settings import HyperSettings
from lorarar.training.launch import new_accelerator
from lorarar.training.trainer import WEIGHT_DECAY, _Training, train_predictor

FAST = HyperSettings(steps=4, hidden=8, batch_pairs=2, combinations=None, validate_every=4, validation_draws=1)


def test_a_step_decays_every_weight_by_the_same_share(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those with a rate of their own: inputs of normalised size have some hundred times the rate of others."""
    settings = replace(FAST, normalise=True, columns=True, column_rate=0.5, learning_rate=0.1)
    training = _Training(world.inputs(), settings)
    assert len({group["factor"] for group in training.optimizer.param_groups}) > 3

    def no_gradients() -> None:
        for value in training.parameters.values():
            value.grad = torch.zeros_like(value)

    monkeypatch.setattr(training, "_average_gradients", no_gradients)
    before = {name: value.detach().clone() for name, value in training.parameters.items()}
    training.step(0)
    for name, value in training.parameters.items():
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.1 * WEIGHT_DECAY), rtol=1e-5, atol=0)


def test_a_falling_rate_belongs_to_its_number_of_steps(world: World, tmp_path: Path) -> None:
    """A constant rate's training may go on for longer, as if it had been meant to."""
    longer = replace(FAST, steps=6)
    whole = train_predictor(world.inputs(), longer)
    train_predictor(world.inputs(), FAST, state=tmp_path / "constant")
    resumed = train_predictor(world.inputs(), longer, state=tmp_path / "constant")
    for name, value in whole.predictor.state_dict().items():
        assert torch.equal(resumed.predictor.state_dict()[name], value)
    falling = replace(FAST, lr_schedule="cosine")
    train_predictor(world.inputs(), falling, state=tmp_path / "cosine")
    with pytest.raises(InputError, match=r"other settings \(steps\)"):
        train_predictor(world.inputs(), replace(falling, steps=6), state=tmp_path / "cosine")


def test_a_training_goes_on_with_less_memory_and_with_another_version(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(FAST, batch_pairs=2)
    train_predictor(world.inputs(), replace(settings, steps=1), state=tmp_path / "state")
    monkeypatch.setattr(trainer, "__version__", "9.9")
    less = replace(settings, gradient_checkpointing=True, accumulation=2)
    resumed = train_predictor(world.inputs(), less, state=tmp_path / "state").predictor.state_dict()
    for name, value in train_predictor(world.inputs(), settings).predictor.state_dict().items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-6)


def test_the_environment_does_not_change_how_a_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    for passes in (1, 2):
        assert new_accelerator(torch.device("cpu"), "no", passes).gradient_accumulation_steps == passes


def of_the_dataset(folder: Path, pairs: Path) -> Path:
    entry = json.loads((folder / "dataset.json").read_text())["contents"][0]
    return folder / entry["images"][0]


def of_a_pair(folder: Path, pairs: Path) -> Path:
    return next(pairs.rglob("*.png"))


@pytest.mark.parametrize(("image", "said"), [(of_the_dataset, "references"), (of_a_pair, "joint_images")])
def test_a_training_goes_on_with_its_own_images_alone(
    image: Callable[[Path, Path], Path], said: str, world: World, tmp_path: Path
) -> None:
    folder, pairs = Path(shutil.copytree(world.dataset.folder, tmp_path / "data")), tmp_path / "pairs"
    drawn = pairs / "content_0--style_0" / "00.png"
    drawn.parent.mkdir(parents=True)
    shutil.copy(of_the_dataset(folder, pairs), drawn)
    given = ["--base", str(world.base), "--dataset", str(folder), "--steps", "2", "--hidden", "8"]
    given += ["--combinations", "0", "--joint", "composed", "--joint-images", str(pairs)]
    given += ["--state", str(tmp_path / "state"), "-o", str(tmp_path / "h.safetensors")]
    assert main(given) == 0 and main(given) == 0
    with Image.open(image(folder, pairs)) as picture:
        ImageOps.invert(picture.convert("RGB")).save(image(folder, pairs))
    with pytest.raises(InputError, match=rf"other settings \({said}\)"):
        main(given)


def test_a_flipped_training_learns_the_mirrored_image_too(
    components: Components, images: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = dreambooth.encode_concepts  # the same start and noise for all, which depend on the files
    monkeypatch.setattr(dreambooth, "encode_concepts", lambda *given: replace(encode(*given), stream=1))
    with Image.open(images[0]) as image:
        ImageOps.mirror(image).save(tmp_path / "mirrored.png")
    both = train(components, [images[0], tmp_path / "mirrored.png"], "a sks dog", SETTINGS)
    flipped = train(components, images[:1], "a sks dog", replace(SETTINGS, flip=True))
    assert same(both, flipped)
    assert not same(both, train(components, images[:1], "a sks dog", SETTINGS))


def test_the_gradient_of_a_whole_batch_is_clipped(
    components: Components, images: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-4 here, which all are above; the parts of a batch are added up first, so that it is one training."""
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *given: Any) -> Any:
        grads = [value.grad for group in self.param_groups for value in group["params"] if value.grad is not None]
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    monkeypatch.setattr(dreambooth, "MAX_GRAD_NORM", 1e-4)
    one, two = (
        train(components, images, "a sks dog", replace(SETTINGS, steps=3, accumulation=passes)) for passes in (1, 2)
    )
    assert norms == pytest.approx([1e-4] * 6, rel=1e-2)
    assert largest_difference(one, two) < 1e-3
