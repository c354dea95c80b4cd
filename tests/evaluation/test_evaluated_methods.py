"""What each compared method puts on the UNet, step by step and in both halves of guidance, against its definition."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hyper_world import World
from test_scheduled import run
from torch import Tensor, nn

from lorarar.base.attach import fused
from lorarar.base.components import encode_prompts
from lorarar.base.names import shipped_dataset
from lorarar.errors import InputError
from lorarar.evaluation import methods
from lorarar.evaluation.composed import composed, composite
from lorarar.evaluation.method_names import COMPOSED_START, METHODS, entry_of, parts_of
from lorarar.evaluation.methods import Workbench, mean_coefficients, pair_seed, prepare
from lorarar.hypernet.checkpoints import LoadedPredictor, open_predictor
from lorarar.hypernet.network import HypernetConfig, Hypernetwork
from lorarar.layout import kind_of
from lorarar.lora import LoRA, LoraLayer, read_lora
from lorarar.merging import MergeOptions, learned_options, merge_loras
from lorarar.merging.klora import KLoRA
from lorarar.merging.ssr_grams import merge_by_ssr
from lorarar.merging.ziplora import ziplora
from lorarar.training.dataset import Content, Dataset, Style, composed_prompts
from lorarar.training.dreambooth import train_lora
from lorarar.training.hyper_settings import ZipSettings
from lorarar.training.settings import LoraSettings

On = Callable[[nn.Module], AbstractContextManager[Any]]
SEED, STEPS = 3, 10
LOOKED_AT = (0, 1, 4, 9)  # of the steps: both ends, a turn of the other LoRA, and where a schedule has both
SAMPLED = ["direct-sum-acfg", "learned-acfg", "direct-sum-composed-start", "joint-composed-start"]
STYLED = [f"{name}-style-0.25" for name, entry in METHODS.items() if entry.scaled]


@dataclass(frozen=True)
class Case:
    """A pair and what a method has to work with."""

    world: World
    bench: Workbench
    content: Content
    style: Style
    loras: tuple[LoRA, LoRA]
    before: Tensor  # the base's own answers
    scale: float = 1.0  # of ΔW_s, in the merges

    @property
    def seed(self) -> int:
        return pair_seed(SEED, self.content, self.style)

    def merge(self, method: str, options: MergeOptions) -> LoRA:
        return merge_loras(*self.loras, self.world.layout, method, replace(options, style_scale=self.scale)).lora


@pytest.fixture(scope="module")
def case(world: World) -> Case:
    settings = LoraSettings(rank=2, steps=2, learning_rate=0.1), ZipSettings(steps=2, learning_rate=0.2, seed=SEED)
    bench = Workbench(world.components, world.layout, world.dataset, "paper", *settings, SEED, composed_share=0.3)
    content, style = world.dataset.contents["content_4"], world.dataset.styles["style_3"]
    loras = read_lora(content.lora), read_lora(style.lora)
    return Case(world, bench, content, style, loras, run(world.components.unet, world))


def predictor(case: Case, rule: str) -> LoadedPredictor:
    widths = tuple(sorted({group.out_features for group in case.world.layout.part("qo")}))
    network = Hypernetwork.untrained(HypernetConfig(widths, hidden=8, kv_rule=rule), 5)
    return open_predictor("tiny", case.world.layout, network)


def checkpoint(case: Case, name: str) -> LoadedPredictor | None:
    """A checkpoint of the rule that an ablation with a rule of its own must not follow."""
    entry = entry_of(name)
    return predictor(case, "average" if name == "learned-kv-sum" else "sum") if entry and entry.hypernet else None


def weighed(case: Case, weights: Callable[[str], tuple[float, float]]) -> LoRA:
    """m_c·ΔW_c + s·m_s·ΔW_s, by the weights (m_c, m_s) of a layer and the case's scale s."""
    layers = {}
    for name in case.loras[0].layers:
        pair = [lora.layers[name].load() for lora in case.loras]
        content, style = weights(name)
        scaled = (content, case.scale * style)
        ups = [np.float32(weight) * layer.up for weight, layer in zip(scaled, pair, strict=True)]
        layers[name] = LoraLayer(np.concatenate([layer.down for layer in pair]), np.concatenate(ups, axis=1))
    return LoRA(layers)


def mean(case: Case) -> LoRA:
    means = mean_coefficients(case.bench, learned_options(predictor(case, "sum").predictor))
    return weighed(case, lambda name: means.get(str(kind_of(name)), (1.0, 1.0)))


def learned(case: Case, rule: str) -> LoRA:
    return case.merge("learned", learned_options(predictor(case, rule).predictor))


def by_ssr(case: Case, text_only: bool) -> LoRA:
    prompts = case.content.prompt, case.style.prompt
    options = MergeOptions(rule="average", style_scale=case.scale)
    return merge_by_ssr(case.world.components, *case.loras, prompts, text_only=text_only, options=options).lora


ONE: dict[str, Callable[[Case], LoRA]] = {
    "content-only": lambda case: case.loras[0],
    "style-only": lambda case: case.loras[1],
    "direct": lambda case: weighed(case, lambda _: (0.5, 0.5)),
    "direct-sum": lambda case: weighed(case, lambda _: (1.0, 1.0)),
    **{
        name: lambda case, name=name: case.merge(name, MergeOptions(rule="average", seed=case.seed))
        for name in ("dare", "ties", "dare-ties", "np-lora", "knots-ties", "norm-balance", "block-router")
    },
    "joint": lambda case: train_lora(case.world.components, [case.content, case.style], case.bench.joint),
    "ziplora": lambda case: (
        ziplora(
            case.world.components,
            *case.loras,
            case.content,
            case.style,
            replace(case.bench.zip, seed=case.seed),
            options=MergeOptions(style_scale=case.scale),
        ).lora
    ),
    "ssr": partial(by_ssr, text_only=False),
    "ssr-text": partial(by_ssr, text_only=True),
    "learned": partial(learned, rule="sum"),
    "learned-kv-average": partial(learned, rule="average"),
    "learned-kv-sum": partial(learned, rule="sum"),
    "learned-mean": mean,
}
"""The methods that are one LoRA at all steps."""


def scheduled(case: Case, method: str) -> list[LoRA]:
    """The content's share of a merge before step 7 of 10 and the style's from step 3 on."""
    content, style = case.loras
    none = [replace(lora, layers={n: replace(x, up=0 * x.up) for n, x in lora.layers.items()}) for lora in case.loras]
    early, both, late = (
        merge_loras(*pair, case.world.layout, method, MergeOptions(rule="sum")).lora
        for pair in ((content, none[1]), (content, style), (none[0], style))
    )
    return [early, early, both, late]


def picked(case: Case, released: bool) -> list[LoRA]:
    content, style = case.loras
    plan = KLoRA.plan(content, style, released)
    return [
        LoRA({n: (content if plan.picks_content(n, step, STEPS) else style).layers[n] for n in content.layers})
        for step in LOOKED_AT
    ]


BY_STEP: dict[str, Callable[[Case], list[LoRA]]] = {
    "switch": lambda case: [*case.loras, *case.loras],
    "schedule": partial(scheduled, method="direct"),
    "craft": partial(scheduled, method="block-router"),
    "k-lora": partial(picked, released=False),
    "k-lora-released": partial(picked, released=True),
}
"""The methods whose LoRA changes from step to step: that of each step in LOOKED_AT."""


def wanted(case: Case, name: str) -> dict[int, On]:
    """What is to be on the UNet, by step: those in LOOKED_AT, or both ends where all steps are alike."""
    told = encode_prompts(case.world.components, composed_prompts(case.content, case.style))
    apart: dict[str, On] = {
        "composed": partial(composed, *case.loras, told),
        "composite": partial(composite, *case.loras),
    }
    own, style, sampling = parts_of(name)
    case = case if style is None else replace(case, scale=style)
    if own in BY_STEP:
        return {step: partial(fused, lora=lora) for step, lora in zip(LOOKED_AT, BY_STEP[own](case), strict=True)}
    on = apart[own] if own in apart else partial(fused, lora=ONE[own](case))
    # Of ten steps the bench has three composed.
    return {0: apart["composed"], 2: apart["composed"], 3: on, 9: on} if sampling == COMPOSED_START else {0: on, 9: on}


@pytest.mark.parametrize("name", [*METHODS, *SAMPLED, *STYLED, "ties-style-0.25-acfg", "dare-style-2-composed-start"])
def test_a_method_is_what_its_name_says(name: str, case: Case) -> None:
    """The UNet's answers for a guided batch; in half of it, craft and the samplings have the base's own.

    A method that reads LoRAs says so: images are kept for these files alone.
    """
    unet, world = case.world.components.unet, case.world
    weights, entry = {key: value.clone() for key, value in unet.state_dict().items()}, entry_of(name)
    ready, opened = prepare(name, case.bench, checkpoint(case, name)), []
    bench = replace(case.bench, lora=lambda path: opened.append(path) or case.bench.lora(path), answers=lambda *_: {})
    made = ready.make(bench, case.content, case.style)
    assert entry is not None and bool(opened) == ready.needs_loras == entry.loras
    answers: dict[On, Tensor] = {}
    steps = wanted(case, name)
    for put_on in {*steps.values()}:
        with put_on(unet):
            answers[put_on] = run(unet, world)
        if name == "craft" or parts_of(name).sampling:
            answers[put_on][:2] = case.before[:2]
        assert (answers[put_on][2:] - case.before[2:]).abs().max() > 1e-3
    with made.put_on(unet) as to_step:
        for step, put_on in steps.items():
            to_step(step, STEPS)
            torch.testing.assert_close(run(unet, world), answers[put_on], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())


def test_a_pair_is_composed_once_for_all_methods(case: Case) -> None:
    """And anew for the next pair."""
    unet, passes = case.world.components.unet, []
    names = ("composed", "direct-composed-start", "direct-sum-composed-start")
    pairs = [(case.content, case.style), (case.content, case.world.dataset.styles["style_1"])]
    on = unet.conv_in.register_forward_hook(lambda *_: passes.append(1))
    for count, pair in enumerate(pairs, 1):
        for name in names:
            with prepare(name, case.bench).make(case.bench, *pair).put_on(unet) as to_step:
                to_step(0, STEPS)
                run(unet, case.world, step=100)
        assert len(passes) == count
    on.remove()


def without_training(dataset: Dataset) -> Dataset:
    parts = dataset.split("paper")
    return replace(dataset, splits={"paper": replace(parts, contents={**parts.contents, "train": ()})})


def test_a_wide_test_takes_the_mean_over_the_shipped_training_pairs(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, options = case.bench, learned_options(predictor(case, "sum").predictor)
    monkeypatch.setattr(methods, "read_dataset", {shipped_dataset(): work.dataset}.__getitem__)
    wide = replace(work, components=replace(work.components, base="miniature"), dataset=without_training(work.dataset))
    assert mean_coefficients(wide, options) == mean_coefficients(work, options)


def test_a_mean_over_training_pairs_needs_all_of_them(case: Case, tmp_path: Path) -> None:
    """Of the wide test, which has no training part, and of a dataset whose LoRAs are half trained."""
    work, options = case.bench, learned_options(predictor(case, "sum").predictor)
    parts, none = work.dataset.split("paper"), without_training(work.dataset)
    with pytest.raises(
        InputError, match="the split 'paper' of tiny has none; choose another `split`, or train constants"
    ):
        mean_coefficients(replace(work, dataset=none), options)
    name = parts.contents["train"][0]
    untrained = replace(work.dataset.contents[name], lora=tmp_path / "missing.safetensors")
    half = replace(work.dataset, contents=work.dataset.contents | {name: untrained})
    with pytest.raises(InputError, match=rf"1 of 5 LoRA files are missing \({name}\); make them with"):
        mean_coefficients(replace(work, dataset=half), options)
