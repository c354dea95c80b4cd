"""LoRA training: what it learns, what it writes, that it is reproducible, resumes, and runs on several processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from lora_training import SETTINGS, largest_difference, same, train
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lorarar.base.components import (
    Components,
    encode_images,
    encode_prompts,
    load_image,
    predict,
)
from lorarar.base.names import load_layout
from lorarar.errors import InputError
from lorarar.layout import UNET
from lorarar.lora import LoRA, write_lora
from lorarar.training import dreambooth
from lorarar.training.curve import ends, sparkline
from lorarar.training.dataset import read_dataset
from lorarar.training.dreambooth import train_lora
from lorarar.training.examples import Concept, encode_concepts
from lorarar.training.settings import LoraSettings, default_settings
from lorarar.training.state import StateFile


def test_every_attention_linear_is_trained(components: Components, tiny_pipeline: Path, trained: LoRA) -> None:
    layout = load_layout(str(tiny_pipeline))
    assert set(trained.layers) == {UNET + module for group in layout.groups for module in group.modules}
    assert {layer.rank for layer in trained.layers.values()} == {4}
    assert all(layer.squared_norm() > 0 for layer in trained.layers.values())


def test_the_loss_falls(components: Components, images: tuple[Path, ...]) -> None:
    """Against the same noise and timesteps without learning: a step's loss is mostly that of its timestep."""
    settings = LoraSettings(rank=4, steps=60, learning_rate=3e-2, batch_size=4)
    losses: list[float] = []
    untouched: list[float] = []
    train(components, images[:1], "a sks dog", settings, on_step=lambda _, loss: losses.append(loss))
    frozen = replace(settings, learning_rate=1e-12)
    train(components, images[:1], "a sks dog", frozen, on_step=lambda _, loss: untouched.append(loss))
    assert len(losses) == 60
    assert len(set(untouched)) == 60, "each step has images, noise and timesteps of its own"
    assert losses[0] == untouched[0]  # `up` starts at zero
    # The noise has variance 1, so saying zero scores 1: a network of random weights is above that.
    assert np.mean(losses[-20:]) - 1 < 0.5 * (np.mean(untouched[-20:]) - 1)


def test_diffusers_loads_what_was_trained(
    components: Components,
    images: tuple[Path, ...],
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The written file in diffusers gives what the PEFT model in memory gave at the end of the training."""
    from diffusers import StableDiffusionXLPipeline

    condition = encode_prompts(components, ["a sks dog"])
    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([400])
    in_memory: list[torch.Tensor] = []
    extract = dreambooth._layers

    def record(unet: Any) -> Any:
        with torch.no_grad():
            in_memory.append(predict(unet, latents, timestep, condition))
        return extract(unet)

    monkeypatch.setattr(dreambooth, "_layers", record)
    settings = replace(SETTINGS, learning_rate=3e-2)
    write_lora(train(components, images, "a sks dog", settings), tmp_path / "dog.safetensors")
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_pipeline)
    with torch.no_grad():
        base = predict(pipe.unet, latents, timestep, condition)
        pipe.load_lora_weights(tmp_path, weight_name="dog.safetensors")
        loaded = predict(pipe.unet, latents, timestep, condition)
    torch.testing.assert_close(loaded, in_memory[0], rtol=1e-5, atol=1e-5)
    assert (loaded - base).abs().max() > 0.05


@contextmanager
def left_as_it_was(components: Components) -> Iterator[None]:
    """Compare every number of the networks, and what a training sets on them, with those before the block."""
    networks = {"unet": components.unet, "vae": components.vae, "one": components.text_encoders[0]}
    networks["two"] = components.text_encoders[1]

    def everything() -> dict[str, torch.Tensor]:
        return {f"{n}.{key}": v.clone() for n, net in networks.items() for key, v in net.state_dict().items()}

    before, forward = everything(), components.unet.forward
    yield
    after = everything()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert components.unet.forward == forward
    assert not components.unet.is_gradient_checkpointing
    assert not any(value.requires_grad for net in networks.values() for value in net.parameters())


def test_the_base_is_as_before(components: Components, images: tuple[Path, ...]) -> None:
    with left_as_it_was(components):
        train(components, images, "a sks dog", replace(SETTINGS, gradient_checkpointing=True))


def test_the_base_is_as_before_after_a_failure(components: Components, images: tuple[Path, ...]) -> None:
    settings = replace(SETTINGS, learning_rate=1e30, gradient_checkpointing=True)
    failed = pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d; lower `learning_rate`")
    with left_as_it_was(components), failed:
        train(components, images, "a sks dog", settings)


@pytest.mark.full
def test_reproducible_by_seed(components: Components, images: tuple[Path, ...], trained: LoRA) -> None:
    torch.manual_seed(99)  # the global generator must not matter
    assert same(train(components, images, "a sks dog", SETTINGS), trained)
    assert not same(train(components, images, "a sks dog", replace(SETTINGS, seed=1)), trained)


@pytest.mark.parametrize("change", ["prompt", "images"])
def test_two_subjects_of_one_seed_start_apart(
    components: Components, images: tuple[Path, ...], trained: LoRA, change: str
) -> None:
    """LoRAs with the same initial `down` would be aligned: merging them is a special case, and testing on one of them a
    hypernetwork that learned from another is no test."""
    other = train(components, *((images, "a sks cat") if change == "prompt" else (images[:1], "a sks dog")), SETTINGS)
    pairs = [(trained.layers[name].down.ravel(), other.layers[name].down.ravel()) for name in trained.layers]
    cosines = [one @ two / np.linalg.norm(one) / np.linalg.norm(two) for one, two in pairs]
    assert abs(np.mean(cosines)) < 0.05


def test_gradient_checkpointing_changes_nothing(
    components: Components, images: tuple[Path, ...], trained: LoRA
) -> None:
    assert same(train(components, images, "a sks dog", replace(SETTINGS, gradient_checkpointing=True)), trained)


def test_accumulation_is_the_same_batch(components: Components, images: tuple[Path, ...]) -> None:
    whole, parts = [], []
    settings = replace(SETTINGS, batch_size=4)
    one = train(components, images, "a sks dog", settings, on_step=lambda _, loss: whole.append(loss))
    cut = replace(settings, accumulation=2)
    two = train(components, images, "a sks dog", cut, on_step=lambda _, loss: parts.append(loss))
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert largest_difference(one, two) < 1e-2  # Adam divides tiny gradients by themselves
    with pytest.raises(InputError, match="a batch of 4 can't be cut into 3 passes on 1 processes; give a `batch_size`"):
        train(components, images, "a sks dog", replace(settings, accumulation=3))


def test_one_step_by_hand(components: Components, images: tuple[Path, ...]) -> None:
    """The first step's loss and update against AdamW and a UNet with explicit up @ down weights."""
    settings = replace(SETTINGS, steps=1, batch_size=1, learning_rate=1e-2)
    losses: list[float] = []
    lora = train(components, images[:1], "a sks dog", settings, on_step=lambda _, loss: losses.append(loss))
    batch = encode_concepts(components, [Concept(images[:1], "a sks dog")]).draw(0, [0], 1, settings.seed, 1000)
    noisy = components.noise.add_noise(batch.latents, batch.noise, batch.timesteps)
    name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
    layer = lora.layers[UNET + name]
    linear = components.unet.get_submodule(name)
    # `up` starts at zero, so its first gradient is the dense weight's gradient times the initial downᵀ, and after one
    # step of AdamW every entry has moved by the learning rate against its sign. `down` only decayed.
    initial = torch.from_numpy(layer.down) / (1 - 1e-2 * dreambooth.WEIGHT_DECAY)
    spread = np.concatenate([layer.down.ravel() for layer in lora.layers.values()]).std()
    assert spread == pytest.approx(1 / settings.rank, rel=0.02)
    linear.weight.requires_grad_(True)
    velocity = components.noise.get_velocity(batch.latents, batch.noise, batch.timesteps)
    loss = torch.nn.functional.mse_loss(predict(components.unet, noisy, batch.timesteps, batch.condition), velocity)
    (gradient,) = torch.autograd.grad(loss, linear.weight)
    linear.weight.requires_grad_(False)
    assert losses[0] == pytest.approx(loss.item(), rel=1e-5)
    step = gradient @ initial.T
    clear = step.abs() > 0.2 * step.abs().max()  # where rounding can't turn the sign and 1e-8 in AdamW is small
    assert clear.sum() > 10
    np.testing.assert_allclose(torch.from_numpy(layer.up)[clear], -1e-2 * step.sign()[clear], rtol=1e-2)


def test_resumes_to_the_same_bits(
    components: Components, images: tuple[Path, ...], trained: LoRA, tmp_path: Path
) -> None:
    state, losses = tmp_path / "state.safetensors", []

    def interrupt(step: int, _: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(components, images, "a sks dog", SETTINGS, on_step=interrupt, state=state, state_every=2)
    assert len(load_file(state)["losses"]) == 4
    resumed = train(components, images, "a sks dog", SETTINGS, on_step=lambda step, _: losses.append(step), state=state)
    assert same(resumed, trained)
    assert losses == [1, 2, 3, 4, 5, 6]  # also those done before
    longer = replace(SETTINGS, steps=8)
    continued = train(components, images, "a sks dog", longer, state=state)
    assert same(continued, train(components, images, "a sks dog", longer))
    with pytest.raises(InputError, match="has 8 steps, more than the 6 of `steps`"):
        train(components, images, "a sks dog", SETTINGS, state=state)


def test_state_of_another_training(components: Components, images: tuple[Path, ...], tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    first = replace(SETTINGS, steps=1)
    train(components, images, "a sks dog", first, state=state)
    for settings, prompt, pictures, different in (
        (replace(first, rank=2), "a sks dog", images, "rank"),
        (first, "a sks cat", images, "prompts"),
        (first, "a sks dog", images[:1], "images"),
        (replace(first, seed=3, batch_size=1), "a sks dog", images, "batch_size, seed"),
    ):
        with pytest.raises(
            InputError, match=rf"a training with other settings \({different}\); give the same settings"
        ):
            train(components, pictures, prompt, settings, state=state)


def test_a_training_goes_on_with_less_memory(components: Components, images: tuple[Path, ...], tmp_path: Path) -> None:
    """As after memory has run out: neither option changes a step."""
    state, settings = tmp_path / "state.safetensors", replace(SETTINGS, steps=3)
    train(components, images, "a sks dog", replace(settings, steps=1), state=state)
    less = replace(settings, gradient_checkpointing=True, accumulation=2)
    resumed = train(components, images, "a sks dog", less, state=state)
    assert largest_difference(resumed, train(components, images, "a sks dog", settings)) < 1e-2  # as in accumulation's


def test_state_of_another_base(components: Components, images: tuple[Path, ...], tmp_path: Path) -> None:
    """One of the same UNet may encode otherwise, and have another schedule."""
    state, first = tmp_path / "state.safetensors", replace(SETTINGS, steps=1)
    train(components, images, "a sks dog", first, state=state)
    vae, encoder = copy.deepcopy(components.vae), copy.deepcopy(components.text_encoders[1])
    scaled = copy.deepcopy(components.vae)
    scaled.register_to_config(scaling_factor=2.0)
    for network in (vae, encoder):
        next(network.parameters()).data.add_(1)
    noise = DDPMScheduler.from_config(components.noise.config, beta_end=0.02)
    for other, different in (
        (replace(components, vae=vae), "encoder_weights"),
        (replace(components, text_encoders=(components.text_encoders[0], encoder)), "encoder_weights"),
        (replace(components, vae=scaled), "base_configs"),
        (replace(components, noise=noise), "base_configs"),
    ):
        with pytest.raises(InputError, match=rf"a training with other settings \({different}\)"):
            train(other, images, "a sks dog", first, state=state)
    train(components, images, "a sks dog", first, state=state)


def test_a_state_of_no_step_yet_goes_on_as_if_it_had_not_been_written(tmp_path: Path) -> None:
    """In fp16 the first steps may all be skipped, and AdamW has no moments."""
    found = []
    for written in (False, True):
        weight = torch.nn.Parameter(torch.ones(2, 3))
        optimizer = torch.optim.AdamW([weight])
        state = StateFile(tmp_path / "state.safetensors", {})
        if written:
            state.save({"a": weight}, optimizer, None, [0.5])
            assert state.load({"a": weight}, optimizer, None, 1) == ([0.5], {})
        (weight**2).sum().backward()
        optimizer.step()
        found.append(weight.detach())
    assert torch.equal(*found)


def test_damaged_states(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "state.safetensors", {"rank": 3})
    parameters = {"a": torch.nn.Parameter(torch.ones(2, 3)), "b": torch.nn.Parameter(torch.ones(4))}
    optimizer = torch.optim.AdamW(parameters.values())
    sum(value.sum() for value in parameters.values()).backward()
    optimizer.step()
    state.save(parameters, optimizer, None, [0.5])
    assert state.load(parameters, optimizer, None, 1) == ([0.5], {})
    whole, tensors = state.path.read_bytes(), load_file(state.path)
    with safe_open(state.path, "pt") as file:
        metadata = file.metadata()
    broken: list[bytes] = [b"", whole[:100], whole[:-1]]
    for name, value in tensors.items():
        save_file({key: tensor for key, tensor in tensors.items() if key != name}, state.path, metadata)
        broken.append(state.path.read_bytes())
        save_file(tensors | {name: value.reshape(1, *value.shape)}, state.path, metadata)
        broken.append(state.path.read_bytes())
    for text in ("[]", "{", '{"training": []}'):
        save_file(tensors, state.path, {"lorarar_training_state": text})
        broken.append(state.path.read_bytes())
    save_file(tensors, state.path)
    for data in [*broken, state.path.read_bytes()]:
        state.path.write_bytes(data)
        with pytest.raises(InputError, match=r"not a state of this training .* delete it or give another `state`"):
            state.load(parameters, optimizer, None, 1)


def test_joint_training_takes_turns(components: Components, tiny_dataset: Path) -> None:
    dataset = read_dataset(tiny_dataset)
    content, style = dataset.contents["content_0"], dataset.styles["style_1"]
    concepts = [Concept(content.images, content.prompt), Concept(style.images, style.prompt)]
    examples = encode_concepts(components, concepts)
    for batch, expected in ((1, [[0], [1], [0]]), (2, [[0, 1], [0, 1]]), (3, [[0, 1, 0], [1, 0, 1]])):
        for step, turns in enumerate(expected):
            drawn = examples.draw(step, range(batch), batch, 0, 1000)
            assert torch.equal(drawn.condition.embeds, examples.condition.embeds[turns])
            for row, turn in enumerate(turns):
                assert any(torch.equal(drawn.latents[row], latent) for latent in examples.latents[turn])
    joint = train_lora(components, [content, style], SETTINGS)
    assert same(joint, train_lora(components, concepts, SETTINGS))
    assert joint.metadata["lorarar_prompt"] == "a sks dog | a cat in line drawing style"
    assert joint.max_rank == SETTINGS.rank


def test_flip_adds_the_mirror_image(components: Components, images: tuple[Path, ...], tmp_path: Path) -> None:
    concept = Concept(images[:1], "a sks dog")
    plain, flipped = (encode_concepts(components, [concept], flip) for flip in (False, True))
    assert [len(latents) for latents in (*plain.latents, *flipped.latents)] == [1, 2]
    with Image.open(images[0]) as image:
        ImageOps.mirror(image).save(tmp_path / "mirrored.png")
    mirrored = encode_images(components, load_image(tmp_path / "mirrored.png", components.resolution)[None])[0]
    torch.testing.assert_close(flipped.latents[0][1], mirrored, rtol=0, atol=1e-5)
    torch.testing.assert_close(flipped.latents[0][0], plain.latents[0][0], rtol=0, atol=1e-5)
    assert (mirrored - plain.latents[0][0]).abs().max() > 1e-3


def test_draws_cover_images_and_times(components: Components, images: tuple[Path, ...]) -> None:
    examples = encode_concepts(components, [Concept(images, "a sks dog")])
    drawn = [examples.draw(step, range(4), 4, 0, 1000) for step in range(100)]
    times = torch.cat([batch.timesteps for batch in drawn])
    assert int(times.min()) < 50 and int(times.max()) >= 950
    assert 450 < times.float().mean() < 550
    first = sum(torch.equal(latent, examples.latents[0][0]) for batch in drawn for latent in batch.latents)
    assert 150 < first < 250
    noise = torch.cat([batch.noise for batch in drawn])
    assert abs(float(noise.mean())) < 0.01
    assert float(noise.std()) == pytest.approx(1, abs=0.01)


def test_rows_of_a_batch_are_the_batch(components: Components, images: tuple[Path, ...]) -> None:
    """What several processes draw together is what one draws alone."""
    examples = encode_concepts(components, [Concept(images, "a sks dog"), Concept(images[:1], "a cat")])
    whole = examples.draw(3, range(4), 4, 7, 1000)
    parts = [examples.draw(3, rows, 4, 7, 1000) for rows in ([0, 1], [2, 3])]
    for name in ("latents", "noise", "timesteps"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "`rank` is 0; give a whole number of 1 or more"),
        ({"rank": 10**20}, "`rank` is 100000000000000000000; give a whole number of at most 1000000000"),
        ({"steps": -1}, "`steps` is -1"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"accumulation": 0}, "`accumulation` is 0"),
        ({"learning_rate": 0.0}, r"`learning_rate` is 0\.0; give a positive number, such as 5e-05"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"seed": -1}, "`seed` is -1; give a whole number of 0 or more"),
        ({"mixed_precision": "fp8"}, "`mixed_precision` is 'fp8'; valid are no, fp16, bf16"),
    ],
)
def test_settings_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **change)


def test_the_papers_defaults() -> None:
    paper = LoraSettings(rank=64, steps=1000, learning_rate=5e-5, batch_size=1)
    assert [default_settings(base) for base in ("sdxl", "koala-700m", "owner/name")] == [paper] * 3
    assert default_settings("miniature").rank == 8


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=300))
def test_sparkline(losses: list[float]) -> None:
    line = sparkline(losses)
    assert len(line) == min(40, len(losses))
    assert set(line) <= set("▁▂▃▄▅▆▇█")
    first, last = ends(losses)
    assert min(losses) <= first <= max(losses)
    assert min(losses) <= last <= max(losses)


def test_sparkline_rises_and_falls() -> None:
    assert sparkline([float(step) for step in range(8)]) == "▁▂▃▄▅▆▇█"
    assert sparkline([8.0, 8.0, 4.0, 4.0, 0.0, 0.0], width=3) == "█▅▁"
    assert (sparkline([]), sparkline([2.0, 2.0])) == ("", "▁▁")
    assert ends([*[1.0] * 10, *[5.0] * 80, *[2.0] * 10]) == (1.0, 2.0)
