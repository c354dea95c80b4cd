"""ZipLoRA: coefficients optimised for one pair, from Python and through `lorarar merge --method ziplora`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hyper_world import World
from safetensors import safe_open

from lorarar.commands.merge import main
from lorarar.errors import InputError
from lorarar.layout import UNET
from lorarar.lora import LoRA, read_lora, write_lora
from lorarar.merging import Merged, MergeOptions
from lorarar.merging.ziplora import optimise_pair, ziplora
from lorarar.training.bank import Coefficients
from lorarar.training.examples import Concept
from lorarar.training.hyper_settings import LossSettings, ZipSettings
from lorarar.training.loss import merging_loss
from lorarar.training.pair_data import single_pair

SETTINGS = ZipSettings(steps=4)


def pair(world: World) -> tuple[LoRA, LoRA]:
    return read_lora(world.dataset.contents["content_0"].lora), read_lora(world.dataset.styles["style_1"].lora)


def optimise(world: World, settings: ZipSettings = SETTINGS, options: MergeOptions | None = None) -> Merged:
    content, style = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    return ziplora(world.components, *pair(world), content, style, settings, options=options)


def loss_of(world: World, merged: Merged) -> float:
    """Eq. 3's two distances on a fixed draw at many timesteps, for the coefficients of a merge."""
    concepts = [
        Concept(entry.images, entry.prompt)
        for entry in (world.dataset.contents["content_0"], world.dataset.styles["style_1"])
    ]
    data = single_pair(world.components, world.layout, pair(world), (concepts[0], concepts[1]))
    batch, packs = data.batch(world.components, data.validation(16, 9, 1000))
    assert merged.coefficients is not None
    applied = {
        group.name: torch.from_numpy(np.stack([merged.coefficients[UNET + module] for module in group.modules]))[
            None
        ].expand(16, -1, -1, -1)
        for group in world.layout.groups
    }
    args = (world.components.unet, batch, world.layout, packs, Coefficients(applied, ()), LossSettings())
    with torch.no_grad(), merging_loss(*args) as loss:
        return float(loss.content + loss.style)


def test_it_improves_the_loss_from_its_start(world: World) -> None:
    start = optimise(world, replace(SETTINGS, steps=1, learning_rate=1e-12))
    assert start.coefficients is not None
    assert all(np.allclose(pairs, 1) for pairs in start.coefficients.values())
    settings = replace(SETTINGS, steps=40, batch_pairs=4)
    end = optimise(world, settings)
    assert loss_of(world, end) < 0.9 * loss_of(world, start)


def test_each_step_has_noise_of_its_own(world: World) -> None:
    losses: list[float] = []
    content, style = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    concepts = (Concept(content.images, content.prompt), Concept(style.images, style.prompt))
    data = single_pair(world.components, world.layout, pair(world), concepts)
    settings = replace(SETTINGS, learning_rate=1e-12)
    optimise_pair(world.components, world.layout, data, settings, lambda _, loss: losses.append(loss))
    assert len(set(losses)) == settings.steps == 4


def test_the_result_is_an_exact_lora_of_both_ranks(world: World) -> None:
    merged, (content, style) = optimise(world, replace(SETTINGS, learning_rate=0.1)), pair(world)
    assert merged.truncation is None and merged.coefficients is not None
    assert set(merged.kinds.values()) == {"method"} and len(merged.kinds) == len(world.layout.modules)
    for name, layer in merged.lora.layers.items():
        m_c, m_s = merged.coefficients[name]
        assert layer.rank == content.layers[name].rank + style.layers[name].rank
        assert np.ptp(m_c) > 0  # every column has its own
        want = content.layers[name].delta() * m_c + style.layers[name].delta() * m_s
        np.testing.assert_allclose(layer.delta(), want, atol=1e-6)


def test_it_is_reproducible_and_its_options_are_recorded(world: World) -> None:
    def same(one: Merged, two: Merged) -> bool:
        return all(np.array_equal(one.lora.layers[name].down, two.lora.layers[name].down) for name in one.lora.layers)

    before = {name: value.clone() for name, value in world.components.unet.state_dict().items()}
    loss = LossSettings("l2", "cosine", 0.2)
    settings = replace(SETTINGS, loss=loss, gradient_checkpointing=True)
    first, again, other = (
        optimise(world, settings),
        optimise(world, settings),
        optimise(world, replace(settings, seed=1)),
    )
    assert same(first, again) and not same(first, other)
    facts = first.lora.metadata
    assert facts["lorarar_method"] == "ziplora" and facts["lorarar_seed"] == "0"
    names = ("steps", "learning_rate", "initial", "lambda", "regulariser", "distance")
    assert [facts[f"lorarar_ziplora_{name}"] for name in names] == ["4", "0.01", "1.0", "0.2", "cosine", "l2"]
    assert other.lora.metadata["lorarar_seed"] == "1"
    assert all(torch.equal(value, before[name]) for name, value in world.components.unet.state_dict().items())
    assert not world.components.unet.is_gradient_checkpointing


def test_scales_are_applied_after_the_optimisation(world: World) -> None:
    plain, scaled = optimise(world), optimise(world, options=MergeOptions(style_scale=0.5))
    assert plain.coefficients is not None and scaled.coefficients is not None
    for name, pairs in plain.coefficients.items():
        np.testing.assert_allclose(scaled.coefficients[name], pairs * [[1.0], [0.5]], rtol=1e-6)


def test_lambda_drives_the_coefficients_apart(world: World) -> None:
    def overlap(weight: float) -> float:
        loss = LossSettings(regulariser="dot-sum", weight=weight)
        found = optimise(world, replace(SETTINGS, steps=20, learning_rate=0.05, loss=loss)).coefficients
        assert found is not None
        return float(np.mean([abs(m_c @ m_s) for m_c, m_s in found.values()]))

    assert overlap(1.0) < 0.2 * overlap(0.0)


def files(world: World) -> list[str]:
    return [str(world.dataset.contents["content_0"].lora), str(world.dataset.styles["style_1"].lora)]


def command(world: World, output: Path, *more: str) -> int:
    return main([*files(world), "--base", str(world.base), "--method", "ziplora", *more, "-o", str(output)])


def test_the_command_takes_a_dataset_or_images_and_prompts(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, style = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    steps = ["--zip-steps", "3", "--seed", "2"]
    assert command(world, tmp_path / "one.safetensors", "--dataset", str(world.dataset.folder), *steps) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "72 merged" in said and "exact" in said
    given = ["--content-images", *map(str, content.images), "--content-prompt", content.prompt]
    given += ["--style-images", str(style.images[0].parent), "--style-prompt", style.prompt]
    assert command(world, tmp_path / "two.safetensors", *given, *steps) == 0
    one, two = (read_lora(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    want = optimise(world, replace(SETTINGS, steps=3, seed=2)).lora
    for name, layer in want.layers.items():
        np.testing.assert_array_equal(one.layers[name].delta(), two.layers[name].delta())
        np.testing.assert_allclose(one.layers[name].delta(), layer.delta(), atol=1e-6)
    with safe_open(tmp_path / "one.safetensors", framework="numpy") as file:
        facts = file.metadata()
    assert facts["lorarar_ziplora_steps"] == "3" and facts["lorarar_seed"] == "2"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --dataset, or all of --content-images, --content-prompt, --style-images and --style-prompt"),
        (["--content-prompt", "a dog"], "or all of --content-images"),
        (["--dataset", "D", "--style-prompt", "x"], "--dataset and --style-prompt exclude each other"),
        (["--dataset", "D", "--hypernet", "h"], "--hypernet means nothing to ziplora"),
        (["--dataset", "D", "--density", "0.3"], "--density means nothing to ziplora"),
        (["--dataset", "D", "--rule", "sum"], "--rule means nothing to ziplora"),
        (["--dataset", "D", "--zip-steps", "0"], "steps is 0; give a whole number of 1 or more"),
        (["--dataset", "D", "--lambda", "-1"], "--lambda is -1.0"),
        (["--dataset", "D", "--regulariser", "none", "--lambda", "1"], "nothing to weigh; leave --lambda out"),
        (["--dataset", "D", "--method", "direct"], "--dataset means nothing to direct; leave it out, or use it with"),
        (["--zip-steps", "3", "--method", "ties"], "--zip-steps means nothing to ties"),
    ],
)
def test_options_that_don_t_belong_are_refused(world: World, arguments: list[str], says: str, tmp_path: Path) -> None:
    given = [str(world.dataset.folder) if item == "D" else item for item in arguments]
    with pytest.raises(InputError) as error:
        command(world, tmp_path / "merged.safetensors", *given)
    assert says in " ".join(str(error.value).split())
    assert list(tmp_path.iterdir()) == []


def test_loras_that_can_t_be_used_are_refused(world: World, tmp_path: Path) -> None:
    content, style = pair(world)
    shutil.copy(files(world)[1], tmp_path / "style.safetensors")
    write_lora(content, tmp_path / "copy.safetensors")
    arguments = ["--base", str(world.base), "--method", "ziplora", "-o", str(tmp_path / "merged.safetensors")]
    with pytest.raises(InputError, match=r"copy\.safetensors is the LoRA of no content in .*; give its images and"):
        main([str(tmp_path / "copy.safetensors"), files(world)[1], *arguments, "--dataset", str(world.dataset.folder)])
    name, layer = next(iter(content.layers.items()))
    wide = LoRA({**content.layers, "text_encoder.text_model.x": layer}, source="wide")
    entries = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    with pytest.raises(InputError, match="training needs LoRAs of the attention linears alone"):
        ziplora(world.components, wide, style, *entries, SETTINGS)
    thin = LoRA({key: value for key, value in style.layers.items() if key != name}, source="thin")
    with pytest.raises(InputError, match="thin: 1 of the 72 attention linears of"):
        ziplora(world.components, content, thin, *entries, SETTINGS)
    assert not (tmp_path / "merged.safetensors").exists()
