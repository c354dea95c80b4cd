"""Merge a content and a style LoRA into one LoRA, by any of METHODS. Importing this needs numpy only.

A layer that only one LoRA has is carried exactly, times that LoRA's scale. A layer that both have is merged by the
method, but for `learned`, which has coefficients for the kinds of layer that its checkpoint learned (the paper: to_q
and to_out.0): all others (feed-forward, projections, convolutions, text encoders, …) follow the k/v rule, exactly.
Every method is defined on ΔW = up @ down, not on the two factors (`ssr` up to its ridge).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from lorarar import __version__
from lorarar.errors import InputError
from lorarar.layout import UNET, Group, Layout, kind_of
from lorarar.lora import LoRA, LoraLayer
from lorarar.lora.layers import join_columns
from lorarar.lora.names import architecture
from lorarar.lora.types import check_made
from lorarar.merging.dense import drop_and_rescale, sparse, trim
from lorarar.merging.exact import (
    block_router,
    by_coefficients,
    direct,
    learned,
    learned_options,
    norm_balance,
    np_lora,
    predict_with,
)
from lorarar.merging.knots import knots_ties
from lorarar.merging.ssr import ssr
from lorarar.merging.truncate import shrink
from lorarar.merging.types import (
    CONTENT_ONLY,
    LEARNED,
    METHOD,
    OTHERS_ONLY,
    RULE,
    RULES,
    STYLE_ONLY,
    LayerPair,
    Merged,
    MergedLayer,
    MergeOptions,
    Method,
    Predict,
    Truncation,
    refuse_overflow,
)
from lorarar.settings import check_choice

__all__ = ["METHODS", "RULES", "MergeOptions", "Merged", "Method", "Predict", "Truncation"]
__all__ += ["CONTENT_ONLY", "LEARNED", "METHOD", "OTHERS_ONLY", "RULE", "STYLE_ONLY", "align", "learned_options"]
__all__ += ["merge_loras", "predict_with"]

METHODS: Mapping[str, Method] = {
    "learned": Method(
        learned,
        "LoRA.rar: a hypernetwork's coefficient for every column of the layers that it learned; exact",
        "2412.05148",
        frozenset({"rule", "learned", "constants"}),
    ),
    "direct": Method(direct, "the average or the sum; exact", "2203.05482", frozenset({"rule"}), needs_torch=False),
    "norm-balance": Method(
        norm_balance,
        "both LoRAs brought to one norm in the layers that both have, then averaged or added up; exact",
        "2502.18461",
        frozenset({"rule"}),
        needs_torch=False,
    ),
    "ziplora": Method(
        by_coefficients,
        "a coefficient for every column of the attention linears, optimised for this pair; exact",
        "2311.13600",
        frozenset({"seed"}),
    ),
    "np-lora": Method(
        np_lora, "the content gives way in the style's row space; exact", "2511.11051", frozenset({"mu"})
    ),
    "knots-ties": Method(
        knots_ties,
        "TIES in the directions of one SVD of both LoRAs; exact",
        "2410.19735",
        frozenset({"density"}),
    ),
    "ssr": Method(
        ssr,
        "a router between the factors, best for what each LoRA does under its own prompt; runs the base; exact",
        "2606.10617",
        frozenset({"rule"}),
    ),
    "ssr-text": Method(
        ssr,
        "the same for cross-attention's to_k and to_v alone, by the text encoders' answers; exact",
        "2606.10617",
        frozenset({"rule"}),
    ),
    "block-router": Method(
        block_router,
        "the content alone in the blocks that draw what, the style alone in those that draw how; exact",
        "2602.18936",
        frozenset({"rule"}),
        needs_torch=False,
    ),
    "dare": Method(
        sparse(drop_and_rescale, elect=False),
        "random entries of ΔW dropped, the rest rescaled, then averaged; cut to a rank",
        "2311.03099",
        frozenset({"density", "seed"}),
    ),
    "ties": Method(
        sparse(trim, elect=True),
        "large entries of ΔW that agree with the elected sign, averaged; cut to a rank",
        "2306.01708",
        frozenset({"density"}),
    ),
    "dare-ties": Method(
        sparse(drop_and_rescale, elect=True),
        "DARE's dropping, then TIES's vote; cut to a rank",
        "2403.13257",
        frozenset({"density", "seed"}),
    ),
}
"""The merging methods by name."""


@dataclass(frozen=True)
class Aligned:
    """The layers of two LoRAs by who has them, in the content's order."""

    pairs: tuple[LayerPair, ...]
    content_only: Mapping[str, LoraLayer]
    style_only: Mapping[str, LoraLayer]
    warnings: tuple[str, ...]


def align(content: LoRA, style: LoRA, layout: Layout) -> Aligned:
    """Pair the layers by name. Raises InputError when a LoRA has no layers or attention linears of another base alone,
    and when one of its layers has another shape than the base's, or the other LoRA's.
    """
    places = {name: group for name, (group, _) in layout.places.items()}
    warnings = [*content.warnings, *style.warnings]
    for lora in (content, style):
        warnings += _check_base(lora, layout.base, places)
    pairs = [
        LayerPair(name, layer, style.layers[name], places.get(name))
        for name, layer in content.layers.items()
        if name in style.layers
    ]
    for pair in pairs:
        if pair.content.weight_shape != pair.style.weight_shape:
            raise InputError(
                f"{content.source} and {style.source} disagree on {pair.name}: {pair.content.weight_shape} against "
                f"{pair.style.weight_shape}; only LoRAs of the same base model can be merged"
            )
    return Aligned(
        tuple(pairs),
        {name: layer for name, layer in content.layers.items() if name not in style.layers},
        {name: layer for name, layer in style.layers.items() if name not in content.layers},
        tuple(warnings),
    )


def _check_base(lora: LoRA, base: str, places: Mapping[str, Group]) -> list[str]:
    """Return what there is to warn of; InputError as `align`."""
    attention = [name for name in lora.layers if name.startswith(UNET) and kind_of(name)]
    inside = [name for name in attention if name in places]
    advice = "it was made for another base model: give the `base` that it was trained on"
    if not lora.layers:
        raise InputError(f"{lora.source}: it has no layers, so there is nothing to merge; give another LoRA")
    check_made(lora)
    if attention and not inside:
        raise InputError(f"{lora.source}: none of its {len(attention)} attention layers is in {base}; {advice}")
    for name in lora.layers.keys() & places.keys():
        have, want = lora.layers[name].weight_shape, (places[name].out_features, places[name].in_features)
        if have != want:
            raise InputError(f"{lora.source}: {name} has shape {have}, {base} has {want}; {advice}")
    if not attention:
        only = "" if any(name.startswith(UNET) for name in lora.layers) else "layers of text encoders alone, and "
        return [
            f"{lora.source}: it has {only}no attention layers of the UNet, by which its base is known and which a "
            f"hypernetwork looks at; that it is for {base} is taken on trust"
        ]
    if len(inside) == len(attention):
        return []
    return [
        f"{lora.source}: {len(attention) - len(inside)} of its {len(attention)} attention layers are not in {base}; "
        "it was made for a larger base (an SDXL LoRA fits KOALA by name only: KOALA's blocks are distilled), so its "
        "effect may be weaker or different; those layers have no effect on this base"
    ]


def merge_loras(
    content: LoRA,
    style: LoRA,
    layout: Layout,
    method: str,
    options: MergeOptions | None = None,
    on_layer: Callable[[int, int], None] | None = None,
) -> Merged:
    """Merge two LoRAs for the base of `layout`, and tell how each layer came about.

    `lorarar.merge` does this for a base and a hypernetwork by name. `options.rank_out` bounds the rank of the layers
    that both LoRAs have; layers of one LoRA keep theirs, exactly. `on_layer(done, all)` is called after each layer that
    both have. Raises InputError for an unknown method, LoRAs that do not fit the base or each other, or a result beyond
    float32.
    """
    options = options or MergeOptions()
    check_choice(METHODS, method=method)
    aligned = align(content, style, layout)
    outcomes: dict[str, MergedLayer] = {}
    # An overflow is told once, as an InputError, and not by numpy's warnings too.
    with np.errstate(over="ignore", invalid="ignore"):
        for outcome in METHODS[method].run(aligned.pairs, options):
            outcomes[outcome.name] = _finished(outcome, options.rank_out)
            if on_layer is not None:
                on_layer(len(outcomes), len(aligned.pairs))
        outcomes |= _carried(aligned, options)
    truncation = Truncation.of({name: item.truncated for name, item in outcomes.items() if item.truncated is not None})
    # The content's order, then what only the style has: the same file whatever the method.
    order = dict.fromkeys(chain(content.layers, style.layers))
    coefficients = {name: item.coefficients for name, item in outcomes.items() if item.coefficients is not None}
    return Merged(
        LoRA({name: outcomes[name].layer for name in order}, source=f"{method} merge"),
        {name: outcomes[name].kind for name in order},
        coefficients if method in ("learned", "ziplora") else None,
        truncation,
        aligned.warnings,
    ).with_facts(_facts(content, style, layout, method, options, truncation))


def _finished(outcome: MergedLayer, rank_out: int | None) -> MergedLayer:
    layer, truncated = refuse_overflow(outcome.layer, outcome.name), outcome.truncated
    if rank_out is not None and layer.rank > rank_out:
        layer, truncated = shrink(layer.load(), rank_out)
    return replace(outcome, layer=layer, truncated=truncated)


def _carried(aligned: Aligned, options: MergeOptions) -> dict[str, MergedLayer]:
    carried: dict[str, MergedLayer] = {}
    kinds = (CONTENT_ONLY, STYLE_ONLY)
    for layers, scale, kind in zip((aligned.content_only, aligned.style_only), options.scales, kinds, strict=True):
        for name, layer in layers.items():
            carried[name] = _finished(MergedLayer(name, join_columns([layer], [scale]), kind), None)
    return carried


def _facts(
    content: LoRA, style: LoRA, layout: Layout, method: str, options: MergeOptions, truncation: Truncation | None
) -> dict[str, str]:
    """Return what a merged file says about itself."""
    facts = {"toolkit_version": __version__, "base": layout.base}
    facts["architecture"] = architecture(layout.layers)
    # Names only: a shared file must not tell its maker's folders.
    facts |= {role: Path(lora.source).name for role, lora in (("content", content), ("style", style))}
    facts |= {"method": method, "paper": METHODS[method].paper} | options.describe(METHODS[method].uses)
    if options.rank_out is not None:
        facts["rank_out"] = str(options.rank_out)
    if truncation is not None:
        facts["truncation_error"] = f"{truncation.overall:.6g}"
        facts["truncation_error_worst"] = f"{truncation.worst:.6g} ({truncation.worst_layer})"
    return facts
