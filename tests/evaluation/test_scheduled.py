"""LoRAs of a part of the steps and of the guided half alone, against weights with and without them."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import product

import pytest
import torch
from hyper_world import World
from torch import nn

from lorarar.base.attach import fused
from lorarar.base.components import encode_prompts, predict
from lorarar.composed import ComposedStart
from lorarar.evaluation.composed import composed, composed_start, composite, remembered
from lorarar.evaluation.scheduled import CONTENT_EARLY, STYLE_LATE, Span, Turn, by_step
from lorarar.lora import LoRA, read_lora
from lorarar.merging import MergeOptions, merge_loras
from lorarar.training.dataset import composed_prompts


@pytest.mark.parametrize(("steps", "content", "style"), [(50, 35, 15), (25, 18, 8), (1, 1, 1)])
def test_the_spans_are_the_papers_steps(steps: int, content: int, style: int) -> None:
    """Of 50 steps the first 35, and those after the first 15; a single step is the content's."""
    assert [CONTENT_EARLY.holds(step, steps) for step in range(steps)] == [step < content for step in range(steps)]
    assert [STYLE_LATE.holds(step, steps) for step in range(steps)] == [step >= style for step in range(steps)]
    assert all(Span().holds(step, steps) for step in range(steps))


def test_a_share_of_the_steps_is_that_of_the_number_that_is_written() -> None:
    """0.28 of 25 is 7, though in doubles it is a little more."""
    for percent, steps in product(range(1, 101), range(1, 101)):
        start, span = ComposedStart("a", "b", percent / 100), Span(last=percent / 100)
        exact = math.ceil(Fraction(percent * steps, 100))
        assert [sum(each.holds(step, steps) for step in range(steps)) for each in (start, span)] == [exact, exact]


@pytest.mark.parametrize(("steps", "length"), [(100, 5), (50, 2), (25, 1), (4, 1)])
def test_two_loras_take_turns(steps: int, length: int) -> None:
    """The released code's 5 of 100 steps, and as many of fewer: always one of the two, the content first."""
    first, second = ([turn.holds(step, steps) for step in range(steps)] for turn in (Turn(False), Turn(True)))
    assert first == [step // length % 2 == 0 for step in range(steps)]
    assert second == [not is_on for is_on in first]


def run(unet: nn.Module, world: World, step: int = 500, seed: int = 0) -> torch.Tensor:
    """The UNet's answer for a batch that guidance makes of two images: without and with the prompt, twice."""
    condition = encode_prompts(world.components, ["", "", "a sks dog", "a sks dog"])
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return predict(unet, latents, torch.tensor([step] * 4), condition)


def test_composed_predictions_are_those_of_each_lora_alone(world: World) -> None:
    """A guided batch of two images, against a UNet with each LoRA's weights in turn; afterwards it is the old one."""
    unet, components = world.components.unet, world.components
    entries = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    content, style = (read_lora(entry.lora) for entry in entries)
    told = composed_prompts(*entries)
    before = run(unet, world)
    of_another_size = replace(components, resolution=64)
    # What the UNet is told about the size is the image's, as without LoRAs.
    with composed(content, style, encode_prompts(of_another_size, told), unet):
        found = run(unet, world)
    assert torch.equal(run(unet, world), before) and "forward" not in vars(unet)
    with composite(content, style, unet):
        mean = run(unet, world)
    assert torch.equal(run(unet, world), before)
    each = []
    for lora in (content, style):
        with fused(unet, lora):
            each.append(run(unet, world))
    torch.testing.assert_close(mean, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-4)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))[2:]

    def alone(prompt: str, lora: LoRA | None) -> torch.Tensor:
        condition = encode_prompts(components, [prompt] * 2)
        with fused(unet, lora) if lora is not None else nullcontext(), torch.no_grad():
            return predict(unet, latents, torch.tensor([500] * 2), condition)

    wanted = alone(told[0], content) + alone(told[1], style) - alone(told[2], None)
    torch.testing.assert_close(found[2:], wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:2], before[:2], rtol=1e-4, atol=1e-4)
    assert (found[2:] - before[2:]).abs().max() > 1e-3


def test_a_composed_start_is_composed_first_and_the_merge_then(world: World) -> None:
    """Of three steps at a share of a half the first two; another image starts composed again."""
    unet = world.components.unet
    entries = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    content, style = (read_lora(entry.lora) for entry in entries)
    start = partial(composed, content, style, encode_prompts(world.components, composed_prompts(*entries)))
    merged = merge_loras(content, style, world.layout, "direct", MergeOptions(rule="sum")).lora
    rest = partial(by_step, [(merged, Span())], True)
    want = []
    for put_on in (start, rest):
        with put_on(unet) as to_step:
            to_step(0, 1)
            want.append(run(unet, world))
    before = run(unet, world)
    with composed_start(start, rest, Span(last=0.5), unet) as to_step:
        for step in (0, 1, 2, 0):
            to_step(step, 3)
            assert torch.equal(run(unet, world), want[step == 2]), step
    assert torch.equal(run(unet, world), before) and "forward" not in vars(unet)
    assert not torch.equal(*want)


def test_what_was_composed_before_takes_no_pass_of_the_unet(world: World) -> None:
    """The same answers, of noise levels and latents that were asked for; others are asked anew."""
    unet = world.components.unet
    entries = world.dataset.contents["content_0"], world.dataset.styles["style_1"]
    loras = [read_lora(entry.lora) for entry in entries]
    start = partial(composed, *loras, encode_prompts(world.components, composed_prompts(*entries)))
    with start(unet):
        want = [run(unet, world), run(unet, world, step=400), run(unet, world, seed=1)]
    passes: list[int] = []
    on = unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    answers: dict[bytes, torch.Tensor] = {}
    for _ in range(2):
        with remembered(start, answers, unet):
            found = [run(unet, world), run(unet, world, step=400), run(unet, world, seed=1)]
        assert "forward" not in vars(unet)
        for each, whole in zip(found, want, strict=True):
            assert torch.equal(each, whole)
            each.zero_()  # a scheduler may write there
    on.remove()
    assert len(passes) == len(answers) == 3


@pytest.mark.parametrize("unguided", [False, True])
def test_each_lora_is_on_in_its_span_and_its_half(world: World, unguided: bool) -> None:
    unet = world.components.unet
    content, style = (
        read_lora(entry.lora) for entry in (world.dataset.contents["content_0"], world.dataset.styles["style_1"])
    )
    both = merge_loras(content, style, world.layout, "direct", MergeOptions(rule="sum")).lora
    spans = [(content, Span(0.0, 0.5)), (style, Span(0.25, 1.0))]
    before = run(unet, world)
    with by_step(spans, unguided, unet) as to_step:
        found = {}
        for step in range(4):
            to_step(step, 4)
            found[step] = run(unet, world)
    assert torch.equal(run(unet, world), before)
    on: dict[int, LoRA] = {0: content, 1: both, 2: style, 3: style}
    for step, lora in on.items():
        with fused(unet, lora):
            want = run(unet, world)
        if unguided:
            want[:2] = before[:2]
        torch.testing.assert_close(found[step], want, rtol=1e-4, atol=1e-4)
        assert (want[2:] - before[2:]).abs().max() > 1e-3
