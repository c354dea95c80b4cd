"""SSR-Merge against least squares on made-up inputs, and what it measures against the layers' own inputs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hyper_world import World
from test_merging_dense import CONTENT, LAYOUT, STYLE

from lorarar.base.attach import fused
from lorarar.base.components import encode_prompts, predict
from lorarar.errors import InputError
from lorarar.layout import UNET
from lorarar.lora import LoRA, LoraLayer, read_lora
from lorarar.merging import MergeOptions, merge_loras
from lorarar.merging.ssr import RIDGE, router
from lorarar.merging.ssr_grams import merge_by_ssr, pass_grams, shared_downs, text_grams

PROMPTS = ("a sks dog", "a house in watercolor style")
NAME = "unet.a.to_q"
TEXT = ("attn2.to_k", "attn2.to_v")


def grams_of(inputs: list[np.ndarray], name: str = NAME) -> np.ndarray:
    down = np.concatenate([each.layers[name].down for each in (CONTENT, STYLE)]).astype(np.float64)
    tokens = sum(x.shape[1] for x in inputs)
    return np.stack([down @ x @ x.T @ down.T / tokens for x in inputs])


def test_the_router_is_the_least_squares_answer() -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((24, 50)), 3 * rng.standard_normal((24, 70))]
    layers = [each.layers[NAME] for each in (CONTENT, STYLE)]
    up, down = np.concatenate([x.up for x in layers], axis=1), np.concatenate([x.down for x in layers])
    tokens = np.sqrt(sum(x.shape[1] for x in inputs))
    z = np.concatenate([down @ x for x in inputs], axis=1) / tokens
    alone = [layer.up @ layer.down @ x for layer, x in zip(layers, inputs, strict=True)]
    wanted = np.concatenate(alone, axis=1) / tokens
    # One row of R·Z for each of up's columns, as up is of full column rank; the ridge is one more block of equations.
    parts = np.linalg.lstsq(up, wanted, rcond=None)[0]
    square = np.concatenate([z, np.sqrt(RIDGE) * np.eye(len(z))], axis=1)
    right = np.concatenate([parts, np.zeros((len(z), len(z)))], axis=1)
    want = np.linalg.lstsq(square.T, right.T, rcond=None)[0].T
    np.testing.assert_allclose(router(grams_of(inputs), layers[0].rank), want, atol=1e-6)


def test_the_same_inputs_under_both_prompts_give_the_average() -> None:
    x = 100 * np.random.default_rng(1).standard_normal((24, 200))  # against the ridge
    options = MergeOptions(grams={NAME: grams_of([x, x])})
    merged, average = (merge_loras(CONTENT, STYLE, LAYOUT, name, options).lora for name in ("ssr", "direct"))
    for name, layer in merged.layers.items():
        want = average.layers[name].delta()
        np.testing.assert_allclose(layer.delta(), want, atol=1e-5 * np.abs(want).max())


def test_inputs_of_their_own_give_each_lora_as_it_is() -> None:
    rng = np.random.default_rng(2)
    space = 100 * np.linalg.qr(rng.standard_normal((24, 24)))[0]
    inputs = [space[:, :3] @ rng.standard_normal((3, 90)), space[:, 3:7] @ rng.standard_normal((4, 90))]
    options = MergeOptions(content_scale=0.5, style_scale=2.0, grams={NAME: grams_of(inputs)})
    merged = merge_loras(CONTENT, STYLE, LAYOUT, "ssr", options)
    assert merged.truncation is None and merged.lora.layers[NAME].rank == 7
    delta = merged.lora.layers[NAME].delta().astype(np.float64)
    for scale, lora, x in zip((0.5, 2.0), (CONTENT, STYLE), inputs, strict=True):
        want = scale * lora.layers[NAME].delta() @ x
        np.testing.assert_allclose(delta @ x, want, atol=1e-3 * np.abs(want).max())
    # Without a Gram matrix, by the rule.
    other = merged.lora.layers["unet.a.to_k"].delta()
    want = (0.5 * CONTENT.layers["unet.a.to_k"].delta() + 2 * STYLE.layers["unet.a.to_k"].delta()) / 2
    np.testing.assert_allclose(other, want, atol=1e-4)


def test_it_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="content_prompt"):
        merge_loras(CONTENT, STYLE, LAYOUT, "ssr")


def test_equations_that_can_t_be_solved_are_told() -> None:
    """As those of a LoRA merged with itself, whose rows are so large that the ridge vanishes beside them."""
    grams = np.full((2, 7, 7), 2.0**60)
    with pytest.raises(InputError, match=r"unet\.a\.to_q: ssr can't tell the two LoRAs' `down` rows apart"):
        merge_loras(CONTENT, STYLE, LAYOUT, "ssr", MergeOptions(grams={NAME: grams}))


@pytest.mark.parametrize("text_only", [False, True])
@pytest.mark.parametrize(("prompt", "says"), [(" ", "a prompt is empty"), ("a \udcff", "`prompt` is .* in UTF-8")])
def test_prompts_that_say_nothing_are_refused(world: World, prompt: str, says: str, text_only: bool) -> None:
    with pytest.raises(InputError, match=says):
        merge_by_ssr(world.components, *pair(world), (prompt, PROMPTS[1]), text_only=text_only)


@pytest.mark.parametrize("text_only", [False, True])
def test_loras_of_another_base_are_refused_before_it_is_run(world: World, text_only: bool) -> None:
    with pytest.raises(InputError, match="made for another base"):
        merge_by_ssr(world.components, CONTENT, STYLE, PROMPTS, text_only=text_only)
    first, second = pair(world)
    wider = {name: replace(layer, down=np.repeat(layer.load().down, 2, 1)) for name, layer in second.layers.items()}
    with pytest.raises(InputError, match="has shape"):
        merge_by_ssr(world.components, first, replace(second, layers=wider), PROMPTS, text_only=text_only)


def pair(world: World) -> tuple[LoRA, LoRA]:
    return read_lora(world.dataset.contents["content_0"].lora), read_lora(world.dataset.styles["style_1"].lora)


def test_what_is_measured_is_what_the_layers_get(world: World) -> None:
    components, loras = world.components, pair(world)
    downs = shared_downs(*loras, components)
    condition = encode_prompts(components, PROMPTS)
    weights = {name: weight.clone() for name, weight in components.unet.state_dict().items()}
    grams = pass_grams(components, loras, downs, condition)
    assert grams.keys() == downs.keys() == loras[0].layers.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in components.unet.state_dict().items())
    # Cross-attention's keys and values get the text, whatever the pass.
    text = text_grams(downs, condition)
    assert 0 < len(text) < len(grams)
    for name, found in text.items():
        np.testing.assert_allclose(grams[name], found, rtol=1e-4, atol=1e-5)
        for number, states in enumerate(condition.embeds):
            z = (downs[name] @ states.mT).double().numpy()
            np.testing.assert_allclose(found[number], z @ z.T / (2 * len(states)), rtol=1e-4, atol=1e-5)


def test_layers_of_one_lora_or_of_no_linear_are_left_out(world: World) -> None:
    content, style = pair(world)
    first, second, *_ = content.layers
    less = replace(style, layers={name: layer for name, layer in style.layers.items() if name != first})
    odd = {**content.layers, "unet.nowhere": content.layers[second]}
    found = shared_downs(
        replace(content, layers=odd),
        replace(less, layers={**less.layers, "unet.nowhere": odd[second]}),
        world.components,
    )
    assert found.keys() == content.layers.keys() - {first}
    np.testing.assert_array_equal(
        found[second], np.concatenate([one.layers[second].load().down for one in (content, style)])
    )


def test_a_pass_is_of_the_components_size(world: World) -> None:
    """A UNet's config need not tell one, or tells another than is drawn."""
    unet, seen = world.components.unet, []
    told = unet.config.sample_size
    watch = unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    unet.register_to_config(sample_size=None)
    merge_by_ssr(world.components, *pair(world), PROMPTS)
    unet.register_to_config(sample_size=told)
    watch.remove()
    side = world.components.resolution // 4
    assert seen == [(1, 4, side, side)] * 2


def test_a_pass_has_its_own_lora_on(world: World) -> None:
    components, loras = world.components, pair(world)
    off = [replace(lora, layers={n: replace(x, up=0 * x.up) for n, x in lora.layers.items()}) for lora in loras]
    downs, condition = shared_downs(*loras, components), encode_prompts(components, PROMPTS)
    on, without = (pass_grams(components, given, downs, condition) for given in (loras, (off[0], off[1])))
    one = pass_grams(components, (loras[0], off[1]), downs, condition)
    last = [name for name in downs if name.endswith("to_out.0")][-1]
    for number, same in ((0, on), (1, without)):
        np.testing.assert_allclose(one[last][number], same[last][number], rtol=1e-6)
    assert all(np.abs(on[last][number] / without[last][number] - 1).max() > 1e-5 for number in (0, 1))


@pytest.mark.parametrize("text_only", [False, True])
def test_layers_of_a_text_encoder_follow_the_rule(world: World, text_only: bool) -> None:
    """A pass is of the UNet alone, and nothing is measured of the others."""
    name, rng = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj", np.random.default_rng(3)
    text = [LoraLayer(*(rng.standard_normal(shape, np.float32) for shape in ((2, 6), (5, 2)))) for _ in range(2)]
    plain, options = pair(world), MergeOptions(rule="sum")
    with_text = [replace(one, layers={**one.layers, name: layer}) for one, layer in zip(plain, text, strict=True)]
    merged, without = (
        dict(merge_by_ssr(world.components, *loras, PROMPTS, text_only=text_only, options=options).lora.layers)
        for loras in (with_text, plain)
    )
    np.testing.assert_allclose(merged.pop(name).delta(), text[0].delta() + text[1].delta(), rtol=1e-5, atol=1e-5)
    assert merged.keys() == without.keys()
    for other, layer in without.items():
        np.testing.assert_array_equal(merged[other].delta(), layer.delta())


def inputs_of(world: World, lora: LoRA, prompt: str) -> dict[str, np.ndarray]:
    """What each layer gets, token by token, at the step of pure noise with a LoRA on under its prompt."""
    unet, found = world.components.unet, {}

    def note(name: str, _module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found[name] = given[0].detach().flatten(0, -2).numpy()

    latents = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(42))
    with fused(unet, lora), ExitStack() as stack, torch.no_grad():
        for name in lora.layers:
            hook = partial(note, name)
            handle = unet.get_submodule(name.removeprefix(UNET)).register_forward_pre_hook(hook)
            stack.callback(handle.remove)
        predict(unet, latents, torch.tensor([999]), encode_prompts(world.components, [prompt]))
    return found


@pytest.mark.parametrize("text_only", [False, True])
def test_the_merge_keeps_more_of_each_lora_than_the_average(world: World, text_only: bool) -> None:
    """By the authors' measure: how far the merge is from each LoRA alone, on what the layer gets under its prompt."""
    loras = pair(world)
    merged = merge_by_ssr(world.components, *loras, PROMPTS, text_only=text_only)
    facts = merged.lora.metadata
    assert facts["lorarar_method"] == ("ssr-text" if text_only else "ssr")
    assert facts["lorarar_style_prompt"] == PROMPTS[1] and merged.truncation is None
    average = merge_loras(*loras, world.layout, "direct").lora
    ratios: dict[str, float] = {}
    inputs = [inputs_of(world, lora, prompt) for lora, prompt in zip(loras, PROMPTS, strict=True)]
    for name, layer in merged.lora.layers.items():
        plain = average.layers[name].delta()
        if text_only and not name.endswith(TEXT):
            np.testing.assert_allclose(layer.delta(), plain, atol=1e-6)
            continue
        errors = []
        for delta in (layer.delta(), plain):
            shares = zip(loras, inputs, strict=True)
            rests = [(delta - lora.layers[name].delta()) @ seen[name].T for lora, seen in shares]
            errors.append(np.linalg.norm(np.concatenate(rests, axis=1)))
        ratios[name] = errors[0] / errors[1]
    assert max(ratios.values()) < 1
    # The first layers get much the same under both prompts, the later ones do not.
    assert text_only or np.median([ratios[name] for name in ratios if not name.endswith(TEXT)]) < 0.9
