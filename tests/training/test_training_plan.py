"""The memory of a training, counted on fake tensors: against the same step on real ones, and against the trainer's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hyper_world import World

from lorarar.commands.train import main
from lorarar.errors import InputError
from lorarar.live_bytes import LiveBytes
from lorarar.training import plan
from lorarar.training.examples import encoded_at_once
from lorarar.training.hyper_settings import HyperSettings, LossSettings
from lorarar.training.plan import TrainingMemory, plan_training
from lorarar.training.trainer import _Training, new_predictor

RANK = 3  # the largest of the world's LoRAs
PLAIN = HyperSettings(batch_pairs=2, combinations=None)
COMPOSED = replace(PLAIN, loss=LossSettings(joint="composed"), learned=("q", "k", "v", "out"), positions=True)


def planned(world: World, settings: HyperSettings) -> TrainingMemory:
    return plan_training(str(world.base), settings, RANK)


@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        COMPOSED,
        replace(COMPOSED, loss=LossSettings(joint="images")),
        replace(COMPOSED, gradient_checkpointing=True, accumulation=2),
        replace(COMPOSED, mixed_precision="bf16"),
    ],
)
def test_fake_tensors_take_what_real_ones_take(settings: HyperSettings, world: World) -> None:
    unet = world.components.unet.to(torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32)
    side = world.components.resolution // 4
    predictor = new_predictor(world.layout, settings)
    counted = LiveBytes()
    try:
        with counted:
            counted.begin()
            # The rows are there before a step, and are counted with it.
            batch = plan._batch(unet, settings, settings.batch_pairs // settings.accumulation, side)
            plan._step(unet, world.layout, predictor, settings, batch, RANK)
    finally:
        unet.float().disable_gradient_checkpointing()
    assert planned(world, settings).step == pytest.approx(counted.most(), rel=0.02)


def test_the_trainers_own_step_takes_as_much(world: World) -> None:
    """With the rows that it draws and the LoRAs that it takes out of the bank, on tensors with numbers."""
    training = _Training(world.inputs(), PLAIN)
    counted = LiveBytes()
    with counted:
        counted.begin()
        training.step(0)
    assert planned(world, PLAIN).step == pytest.approx(counted.most(), rel=0.1)


def test_networks_take_their_weights(world: World) -> None:
    found = planned(world, replace(PLAIN, mixed_precision="bf16")).networks
    weights = {"unet": world.components.unet, "vae": world.components.vae}
    weights |= dict(zip(("text_encoder", "text_encoder_2"), world.components.text_encoders, strict=True))
    for name, network in weights.items():
        count = sum(value.numel() for value in network.parameters())
        assert found[name] == pytest.approx(count * (4 if name == "vae" else 2), rel=0.02)


def test_more_takes_more(world: World) -> None:
    base = planned(world, COMPOSED)
    assert planned(world, PLAIN).step < base.step < planned(world, replace(COMPOSED, batch_pairs=4)).step
    assert planned(world, replace(COMPOSED, gradient_checkpointing=True)).step < base.step
    assert planned(world, replace(COMPOSED, batch_pairs=4, accumulation=2)).step == base.step
    assert base.most == sum(base.networks.values()) + max(base.step, base.encoding)


def test_large_images_are_encoded_one_by_one() -> None:
    assert [encoded_at_once(side) for side in (96, 512, 768, 1024, 2048)] == [4, 4, 1, 1, 1]


def test_the_command_counts_and_writes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--base", str(world.base), "--batch-pairs", "2", "--joint", "composed"]
    assert main([*given, "--plan", "3"]) == 0
    said = capsys.readouterr().out
    assert "rank 3" in said and "a pass of 2 pairs" in said and "32×32" in said
    with pytest.raises(InputError, match="trains nothing, so"):
        main([*given, "--plan", "-o", "h.safetensors"])
    with pytest.raises(InputError, match=r"trains nothing, so .*more"):
        main([*given, "--plan", "--more", "data"])
    with pytest.raises(InputError, match=r"trains nothing, so .*state"):
        main([*given, "--plan", "--state", "s.safetensors"])
    for ignored in (["--split", "paper"], ["--untrained"]):
        with pytest.raises(InputError, match=f"--plan trains nothing, so {ignored[0]} can't apply"):
            main([*given, "--plan", *ignored])
    assert main([*given, "--plan", "3", "--steps", "10"]) == 0  # the default's warm-up is longer
    with pytest.raises(InputError, match="there is no file for the checkpoint; give"):
        main(given)
    with pytest.raises(InputError, match="resolution"):
        main([*given, "--plan", "--resolution", "33"])
    with pytest.raises(InputError, match="`rank` is 0"):
        main([*given, "--plan", "0"])
    with pytest.raises(InputError, match="of the composed answer"):
        main(["--base", str(world.base), "--joint-style", "0.9", "--plan"])
    with pytest.raises(InputError, match="resolution"):  # the miniature's own recipe has a composed joint term
        main(["--joint-style", "0.9", "--plan", "--resolution", "33"])
