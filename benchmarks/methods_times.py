"""Time merging methods in a session: from two loaded LoRAs to what the first image takes, and for another strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import Case, OnCase, RunSettings, document_head, measure_cases
from lorarar.layout import Layout
from lorarar.lora import LoRA
from lorarar.merging import MergeOptions, align, merge_loras
from lorarar.merging.exact import CONTENT_BLOCKS, balance
from lorarar.merging.klora import KLoRA
from runtime_py.blend import Blender, blends_apart
from runtime_py.bundle import Bundle
from runtime_py.session import Session
from runtime_py.stages import timed

COMPOSED = "composed-start"
AS_COEFFICIENTS = ("direct", "learned", "norm-balance", "block-router", "k-lora", COMPOSED)
AS_LORA = ("np-lora", "ssr", "knots-ties", "dare", "ties", "dare-ties")
MEASURED = (*AS_COEFFICIENTS, *AS_LORA)
"""The methods that are measured. `ssr` gets random Gram matrices: its passes of the UNet are not in its times."""
FIRST, AGAIN = (1.0, 1.0), (1.0, 0.5)
_STEPS = 20  # of an image, of which K-LoRA's coefficients are those of the middle one

Seconds = dict[str, float]


class Written(NamedTuple):
    """What one merge writes."""

    writes: str  # `coefficients`, or `adapter`: whole stacks with their coefficients
    bytes: int
    every_step: bool = False


Merge = Callable[[Sequence[float]], Written]
"""Merge the loaded pair at these strengths, up to what the UNet takes."""


def measure_methods(
    bundle: Bundle, pair: tuple[LoRA, LoRA], methods: Sequence[str], settings: RunSettings, progress: OnCase
) -> dict[str, Any]:
    """Merge a pair by each method in turn, in one session, and return the document.

    Raises InputError for LoRAs that do not fit the bundle or each other, and for `learned` without a hypernetwork.
    """
    session = bundle.session(settings.threads, keep=True)
    if "learned" in methods:
        session.open("hypernet")
    times: dict[str, list[Seconds]] = {name: [] for name in methods}
    written: dict[str, Written] = {}
    cases = {name: _case(name, session, pair, times[name], written) for name in methods}
    machine, samples = measure_cases(cases, settings.runs, progress)
    return {
        **document_head("methods", bundle.manifest["base"], settings),
        "target": bundle.manifest["target"],
        "ranks": [max(layer.rank for layer in lora.layers.values()) for lora in pair],
        **machine.record(samples["sgemm"]),
        # The first turn of each is the warm-up, which interleave doesn't time.
        "cases": [_record(name, times[name][1:], written[name]) for name in methods],
    }


def _case(
    name: str, session: Session, pair: tuple[LoRA, LoRA], times: list[Seconds], written: dict[str, Written]
) -> Case:
    """Return one turn of a method, which adds its two times to `times` and tells what it wrote."""

    def turn() -> None:
        session.load(pair)
        merge, seconds = merge_by(name, session, pair), Seconds()
        for key, strengths in (("first", FIRST), ("again", AGAIN)):
            _ = session.carried  # else it is measured in the background meanwhile
            with timed(seconds, key):
                written[name] = merge(strengths)
        _ = session.carried
        times.append(seconds)

    return turn


def merge_by(name: str, session: Session, pair: tuple[LoRA, LoRA]) -> Merge:
    """Return how a session with this pair merges by the method of that name, one of MEASURED."""
    if name in ("direct", "learned"):
        return lambda strengths: _merged(session, name, strengths)
    if name == "norm-balance":
        return _norm_balance(session, pair)
    if name == "block-router":
        return _picked(session, lambda: block_picks(session.bundle.layout), every_step=False)
    if name == "k-lora":
        return _picked(session, lambda: klora_picks(pair), every_step=True)
    if name == COMPOSED:
        return lambda strengths: _composed(session, strengths)
    grams = random_grams(session.bundle.layout, pair) if name == "ssr" else None

    def through_a_lora(strengths: Sequence[float]) -> Written:
        options = MergeOptions(content_scale=strengths[0], style_scale=strengths[1], grams=grams)
        session.load([merge_loras(*pair, session.bundle.layout, name, options).lora])
        session.merge("direct")
        return Written("adapter", _bytes(session.stack.inputs) + _bytes(session.coefficients))

    return through_a_lora


def random_grams(layout: Layout, pair: tuple[LoRA, LoRA]) -> dict[str, np.ndarray]:
    """Make Gram matrices of random numbers, (2, r, r) for each layer of the base that both LoRAs have."""
    numbers, made = np.random.default_rng(0), {}
    for layer in layout.places:
        if all(layer in lora.layers for lora in pair):
            rank = sum(lora.layers[layer].rank for lora in pair)
            factors = numbers.standard_normal((2, rank, 2 * rank), np.float32)
            made[layer] = factors @ factors.swapaxes(1, 2) / (2 * rank)
    return made


def _merged(session: Session, name: str, strengths: Sequence[float]) -> Written:
    session.merge(name, strengths=strengths)
    return Written("coefficients", _bytes(session.coefficients))


def _norm_balance(session: Session, pair: tuple[LoRA, LoRA]) -> Merge:
    """Return norm balance's merge: both norms, once, and the average at strengths that make them equal."""
    gamma = cache(lambda: balance(align(*pair, session.bundle.layout).pairs))
    return lambda strengths: _merged(session, "direct", (strengths[0] * gamma(), strengths[1] / gamma()))


def _picked(session: Session, pick: Callable[[], Mapping[str, int]], every_step: bool) -> Merge:
    """Return the merge that gives each layer to one of the two LoRAs: `pick` once, and the coefficients."""
    # A session makes K-LoRA's blender once, and one of a router's coefficients for each merge.
    picks, new = cache(pick), partial(Blender, session.stack, 1.0)
    blender: Callable[[], Blender] = cache(new) if every_step else new

    def merge(strengths: Sequence[float]) -> Written:
        values = blender().at(strengths, None, picks())
        return Written("coefficients", _bytes(values), every_step)

    return merge


def block_picks(layout: Layout) -> dict[str, int]:
    """Return the LoRA of each layer by CRAFT-LoRA's block router: 0 is the content, 1 the style."""
    return {layer: 0 if layer.startswith(CONTENT_BLOCKS) else 1 for layer in layout.places}


def klora_picks(pair: tuple[LoRA, LoRA]) -> dict[str, int]:
    """Compare two LoRAs as K-LoRA does, and return the LoRA of each layer in the middle of an image."""
    plan = KLoRA.plan(*pair)
    return {layer: 0 if plan.picks_content(layer, _STEPS // 2, _STEPS) else 1 for layer in plan.ratios}


def _composed(session: Session, strengths: Sequence[float]) -> Written:
    """Write the coefficients of the three passes that have their own: the content's, the style's, and the base's."""
    (apart,) = blends_apart(session.stack, [strengths], {})
    return Written("coefficients", sum(_bytes(blend) for blend in apart if isinstance(blend, Mapping)))


def _bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _record(name: str, times: Sequence[Seconds], written: Written) -> dict[str, Any]:
    seconds = {key: [turn[key] for turn in times] for key in ("first", "again")}
    return {
        "name": name,
        "first_s": median(seconds["first"]),
        "again_s": median(seconds["again"]),
        "seconds": seconds,
        "writes": written.writes,
        "written_bytes": written.bytes,
        "every_step": written.every_step,
    }
