"""Make the compared methods ready: each turns a content and a style into something that can be put on the UNet."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lorarar import merging
from lorarar.base.attach import fused
from lorarar.base.components import Components, encode_prompts
from lorarar.base.names import MINIATURE, shipped_dataset
from lorarar.composed import COMPOSED_SHARE
from lorarar.errors import InputError
from lorarar.evaluation.composed import composed, composed_start, composite, remembered
from lorarar.evaluation.generate import PutOn
from lorarar.evaluation.method_names import COMPOSED_START, METHODS, parts_of
from lorarar.evaluation.scheduled import CONTENT_EARLY, STYLE_LATE, Span, Turn, by_step
from lorarar.files import file_digest
from lorarar.hypernet.checkpoints import LoadedPredictor, check_fits
from lorarar.layout import Layout
from lorarar.lora import LoRA, read_lora
from lorarar.merging import Merged, MergeOptions, Predict, learned_options
from lorarar.merging.klora import ALPHA, BETA, RELEASED_BETA, BeforeStep, KLoRA
from lorarar.merging.ssr import RIDGE
from lorarar.merging.ssr_grams import SEED, merge_by_ssr
from lorarar.merging.ziplora import ziplora
from lorarar.training.dataset import DEFAULT_SPLIT, Content, Dataset, Style, composed_prompts, read_dataset
from lorarar.training.dreambooth import train_lora
from lorarar.training.hyper_settings import MEAN_PAIRS, ZipSettings
from lorarar.training.means import coefficient_means, training_pairs, training_part
from lorarar.training.settings import LoraSettings

SCHEDULE = (CONTENT_EARLY, STYLE_LATE)
KEPT_LORAS = 8  # in memory: one of rank 64 has 372 MB for SDXL


@contextmanager
def fused_lora(lora: LoRA, unet: nn.Module) -> Iterator[BeforeStep]:
    """Add a LoRA into the weights while images are drawn: the merge exactly, at no cost a step."""
    with fused(unet, lora):
        yield lambda step, steps: None


@dataclass(frozen=True)
class Made:
    """A method's result for a pair, and how much of it was trained or predicted."""

    put_on: PutOn
    parameters: int = 0
    coefficient_seconds: float | None = None
    lora: LoRA | None = None  # what `put_on` adds into the weights, where that is all it does
    coefficients: Mapping[str, np.ndarray] | None = None  # (2, in) by layer, of merges that have them

    @classmethod
    def of(cls, lora: LoRA, parameters: int = 0, coefficient_seconds: float | None = None) -> Made:
        """Make the result that is one LoRA."""
        return cls(partial(fused_lora, lora), parameters, coefficient_seconds, lora)

    @classmethod
    def of_merge(cls, merged: Merged, parameters: int = 0, coefficient_seconds: float | None = None) -> Made:
        """Make the result that is a merge of two."""
        return replace(cls.of(merged.lora, parameters, coefficient_seconds), coefficients=merged.coefficients)

    def unguided(self) -> Made:
        """Keep the LoRA out of the pass without the prompt."""
        assert self.lora is not None
        return replace(self, put_on=partial(by_step, [(self.lora, Span())], True))


@dataclass
class Workbench:
    """The networks, data and settings that the methods work with. A LoRA is read once.

    `components` are for images of the side that is drawn, which the dataset's need not have.
    """

    components: Components
    layout: Layout
    dataset: Dataset
    split: str
    joint: LoraSettings
    zip: ZipSettings
    seed: int = 0  # of random merges
    composed_share: float = COMPOSED_SHARE  # of the steps, with a composed start
    lora: Callable[[Path], LoRA] = field(default_factory=lambda: lru_cache(KEPT_LORAS)(read_lora))
    answers: Callable[[str, str], dict[bytes, Tensor]] = field(default_factory=lambda: lru_cache(1)(lambda *_: {}))
    """What `remembered` keeps of the last content and style, by name: all methods that compose share it."""

    def pair(self, content: Content, style: Style) -> tuple[LoRA, LoRA]:
        """Return the LoRAs of a pair."""
        return self.lora(content.lora), self.lora(style.lora)

    @property
    def training(self) -> Components:
        """The networks for images of the dataset's side, which the methods that train learn from."""
        return replace(self.components, resolution=self.dataset.resolution)


BY_PAIR = {"drawn": "by pair"}
"""Of a method that draws at random: each pair has a seed of its own."""


def pair_seed(seed: int, content: Content, style: Style) -> int:
    """Return a pair's own seed. The luck of one draw for all pairs would be in each of them, and in no interval."""
    return zlib.crc32(f"{seed}/{content.name}/{style.name}".encode())


Make = Callable[[Workbench, Content, Style], Made]


@dataclass(frozen=True)
class Evaluated:
    """A method that is ready for pairs.

    `facts` are what its results depend on besides the pair's prompts, LoRAs and reference images, as JSON.
    """

    name: str
    make: Make
    facts: Mapping[str, Any] = field(default_factory=dict)
    needs_loras: bool = True
    needs_images: bool = False  # the references'
    composes: bool = False  # answers of both LoRAs, one of them under the content's class


def prepare(name: str, bench: Workbench, hypernet: LoadedPredictor | None = None) -> Evaluated:
    """Make a method ready; a name that is not in METHODS is that of an ablation's checkpoint, given as `hypernet`.

    Raises InputError when the method needs a checkpoint and there is none.
    """
    own, style, sampling = parts_of(name)
    if sampling:
        ready = replace(prepare(name.removesuffix(sampling), bench, hypernet), name=name)
        if sampling == COMPOSED_START:
            facts = {**ready.facts, "composed_share": bench.composed_share}
            return replace(ready, make=_after_composed(ready.make), facts=facts, needs_loras=True, composes=True)
        return replace(ready, make=lambda *pair: ready.make(*pair).unguided())
    scale: dict[str, Any] = {} if style is None else {"style_scale": style}
    if own not in METHODS or METHODS[own].hypernet:
        if hypernet is None:
            raise InputError(f"the method {name} needs a hypernetwork; give it as `hypernet`")
        return replace(_learned(own, bench, hypernet, scale), name=name)
    side, scaled = {"resolution": bench.training.resolution}, MergeOptions(**scale)
    special: dict[str, tuple[Make, dict[str, Any]]] = {
        "content-only": (lambda bench, content, style: Made.of(bench.lora(content.lora)), {}),
        "style-only": (lambda bench, content, style: Made.of(bench.lora(style.lora)), {}),
        "composed": (_composed, {}),
        "composite": (lambda bench, *pair: Made(partial(composite, *bench.pair(*pair))), {}),
        "switch": (_switch, {"length": Turn(False).length}),
        "k-lora": (_klora(False), {"alpha": ALPHA, "beta": BETA}),
        "k-lora-released": (_klora(True), {"alpha": ALPHA, "beta": RELEASED_BETA}),
        "joint": (_joint, asdict(bench.joint) | side),
        "ziplora": (_ziplora(scaled), asdict(bench.zip) | side | BY_PAIR),
        "ssr": (_ssr(False, scaled), {"seed": SEED, "ridge": RIDGE, "rule": "average"}),
        "ssr-text": (_ssr(True, scaled), {"ridge": RIDGE, "rule": "average"}),
        "schedule": (_scheduled("direct", SCHEDULE, False), {"spans": _told(SCHEDULE), "rule": "sum"}),
        "craft": (_scheduled("block-router", SCHEDULE, True), {"spans": _told(SCHEDULE)}),
    }
    if own in special:
        make, facts = special[own]
        entry = METHODS[own]
        images = entry.optimised or not entry.loras
        return Evaluated(name, make, facts | scale, entry.loras, needs_images=images, composes=name == "composed")
    base_name = "direct" if own == "direct-sum" else own
    options = replace(scaled, rule="sum" if own == "direct-sum" else "average", seed=bench.seed)
    facts = dict(options.describe(merging.METHODS[base_name].uses))
    if "seed" in facts:
        facts |= BY_PAIR
    return Evaluated(name, _merging(base_name, options), facts)


def _composed(bench: Workbench, content: Content, style: Style) -> Made:
    prompts = encode_prompts(bench.components, composed_prompts(content, style))
    start = partial(composed, *bench.pair(content, style), prompts)
    return Made(partial(remembered, start, bench.answers(content.name, style.name)))


def _after_composed(make: Make) -> Make:
    def made(bench: Workbench, content: Content, style: Style) -> Made:
        merged = make(bench, content, style).unguided()
        start = _composed(bench, content, style).put_on
        return replace(merged, put_on=partial(composed_start, start, merged.put_on, Span(last=bench.composed_share)))

    return made


def _switch(bench: Workbench, content: Content, style: Style) -> Made:
    turns = zip(bench.pair(content, style), (Turn(False), Turn(True)), strict=True)
    return Made(partial(by_step, list(turns), False))


def _klora(released: bool) -> Make:
    def make(bench: Workbench, content: Content, style: Style) -> Made:
        lora_c, lora_s = bench.pair(content, style)
        return Made(KLoRA.plan(lora_c, lora_s, released).applied)

    return make


def _joint(bench: Workbench, content: Content, style: Style) -> Made:
    lora = train_lora(bench.training, [content, style], bench.joint)
    return Made.of(lora, sum(layer.down.size + layer.up.size for layer in lora.layers.values()))


def _ziplora(options: MergeOptions) -> Make:
    def make(bench: Workbench, content: Content, style: Style) -> Made:
        start = time.perf_counter()
        settings = replace(bench.zip, seed=pair_seed(bench.zip.seed, content, style))
        merged = ziplora(bench.training, *bench.pair(content, style), content, style, settings, options=options)
        coefficients = (merged.coefficients or {}).values()
        # The final merge is a few milliseconds of the whole.
        return Made.of_merge(merged, sum(pair.size for pair in coefficients), time.perf_counter() - start)

    return make


def _ssr(text_only: bool, options: MergeOptions) -> Make:
    def make(bench: Workbench, content: Content, style: Style) -> Made:
        prompts = content.prompt, style.prompt
        pair = bench.pair(content, style)
        merged = merge_by_ssr(bench.components, *pair, prompts, text_only=text_only, options=options)
        return Made.of(merged.lora)

    return make


def _scheduled(name: str, spans: tuple[Span, Span], unguided: bool) -> Make:
    """Make a merge whose two shares are on in their spans, by the strengths (1, 0) and (0, 1) of the method."""

    def make(bench: Workbench, content: Content, style: Style) -> Made:
        pair = bench.pair(content, style)
        shares = [
            merging.merge_loras(
                *pair, bench.layout, name, MergeOptions(rule="sum", content_scale=c, style_scale=s)
            ).lora
            for c, s in ((1.0, 0.0), (0.0, 1.0))
        ]
        return Made(partial(by_step, list(zip(shares, spans, strict=True)), unguided))

    return make


def _told(spans: tuple[Span, Span]) -> list[list[float]]:
    return [[span.first, span.last] for span in spans]


def _merging(name: str, options: MergeOptions, parameters: int = 0) -> Make:
    """Make a method of lorarar.merging; the time within `options.predict` is measured apart."""

    def make(bench: Workbench, content: Content, style: Style) -> Made:
        seconds: list[float] = []
        predict = None if options.predict is None else _timed(options.predict, seconds)
        given = replace(options, predict=predict, seed=pair_seed(options.seed, content, style))
        merged = merging.merge_loras(*bench.pair(content, style), bench.layout, name, given)
        return Made.of_merge(merged, parameters, None if predict is None else sum(seconds))

    return make


def _timed(predict: Predict, seconds: list[float]) -> Predict:
    """Return the predictor, which notes in `seconds` how long each call took."""

    def timed(modules: Sequence[str], *factors: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        found = predict(modules, *factors)
        seconds.append(time.perf_counter() - start)
        return found

    return timed


def _learned(name: str, bench: Workbench, loaded: LoadedPredictor, scale: Mapping[str, float]) -> Evaluated:
    """Make LoRA.rar or one of its ablations: another k/v rule, or coefficients that do not depend on the LoRAs.

    `scale` has the style's, where it is not 1. Raises InputError for a checkpoint of another base.
    """
    check_fits(loaded.predictor, bench.layout)
    rules = {"learned-kv-average": {"rule": "average"}, "learned-kv-sum": {"rule": "sum"}}
    options = learned_options(loaded.predictor, **rules.get(name, {}), **scale)
    facts: dict[str, Any] = {"hypernet": loaded.sha256, "rule": options.rule, "learned": list(options.learned), **scale}
    parameters = sum(parameter.numel() for parameter in loaded.predictor.parameters())
    if name == "learned-mean":
        means = mean_coefficients(bench, options)
        options, parameters = replace(options, constants=means, predict=None), 2 * len(means)
        # What the means follow from: their last bits are the processor's.
        trained = [file_digest(entry.lora) for role in training_part(*_trained_on(bench)) for entry in role]
        facts["constants"] = {"pairs": MEAN_PAIRS, "seed": bench.seed, "files": trained}
    return Evaluated(name, _merging("learned", options, parameters), facts)


def mean_coefficients(bench: Workbench, options: MergeOptions) -> dict[str, tuple[float, float]]:
    """Return by kind of layer the hypernetwork's mean (m_c, m_s) over columns, layers and training pairs, unscaled.

    Raises InputError as `training_pairs` and `coefficient_means`.
    """
    pairs = training_pairs(*_trained_on(bench), bench.seed)
    unscaled = replace(options, content_scale=1.0, style_scale=1.0)
    means = coefficient_means((bench.pair(*pair) for pair in pairs), bench.layout, unscaled)
    return {kind: found.mean for kind, found in means.items()}


def _trained_on(bench: Workbench) -> tuple[Dataset, str]:
    """Return whose training part the means are of: the split's or, on the miniature and where that has none, as a wide
    test, the shipped dataset's.
    """
    if not all(bench.dataset.part(bench.split, "train")) and bench.components.base == MINIATURE:
        return read_dataset(shipped_dataset()), DEFAULT_SPLIT
    return bench.dataset, bench.split


def sampled_pairs(dataset: Dataset, split: str, part: str) -> list[tuple[Content, Style]]:
    """Pair every content of a part with every style of it. Raises InputError when there is none."""
    pairs = list(product(*dataset.part(split, part)))
    if not pairs:
        raise InputError(f"the split {split!r} has no {part} pairs; choose another `part` or `split`")
    return pairs
