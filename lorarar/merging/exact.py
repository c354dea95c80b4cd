"""The methods whose result is low-rank by nature: nothing is lost, and no ΔW is formed. Imports torch when called.

All of them give up_m = [up_c, up_s] and down_m = [down_c·A; down_s·B] for some A and B, an ordinary LoRA of rank
r_c + r_s.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from lorarar.errors import InputError
from lorarar.layout import UNET, kind_of
from lorarar.lora import LoraLayer, concatenate, pad_rank
from lorarar.lora.layers import join_columns
from lorarar.merging.types import LEARNED, METHOD, RULE, RULES, LayerPair, MergedLayer, MergeOptions, Predict, per_core

# Bounds what is stacked at once (SDXL, rank 64: 42 MB) and is a multiple of what the hypernetwork takes at once.
_LAYERS_AT_ONCE = 48

CONTENT_BLOCKS = tuple(f"{UNET}{block}." for block in ("down_blocks", "mid_block", "up_blocks.0.attentions.0"))
"""The blocks that CRAFT-LoRA gives to the content: those before and in the middle of SDXL's UNet, and the next one.

Its code leaves two places without either LoRA, `down_blocks.2` and `up_blocks.0.attentions.2`. Here the former is the
content's, as all blocks before the middle, and the latter the style's, so that no layer of a LoRA is dropped.
"""


def learned(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Merge as LoRA.rar does (arXiv 2412.05148, Eq. 2): ΔW_m = ΔW_c·diag(m_c) + ΔW_s·diag(m_s), m by a hypernetwork.

    Learned for the base's layers of `options.learned` (the paper: to_q and to_out.0); every other layer that both LoRAs
    have follows the k/v rule. The scales multiply the coefficients. Raises InputError without `options.predict` and
    `options.constants`, or for a width the hypernetwork was not made for.
    """
    groups: dict[str, list[LayerPair]] = {}
    for pair in pairs:
        if pair.group is not None and kind_of(pair.name) in options.learned:
            groups.setdefault(pair.group.name, []).append(pair)
    for members in groups.values():
        for first in range(0, len(members), _LAYERS_AT_ONCE):
            batch = members[first : first + _LAYERS_AT_ONCE]
            for pair, coefficients in zip(batch, _coefficients(batch, options), strict=True):
                yield _weighted(pair, coefficients, LEARNED, options)
    done = {pair.name for members in groups.values() for pair in members}
    yield from direct([pair for pair in pairs if pair.name not in done], options, RULE)


def by_coefficients(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Merge by Eq. 2 with coefficients that were optimised for this pair, as ZipLoRA's are (arXiv 2311.13600).

    They are `options.coefficients`. Layers without any, and those outside the base's attention linears, follow the
    rule. Raises InputError when `options.coefficients` is None.
    """
    if options.coefficients is None:
        raise InputError(
            "ziplora's coefficients are optimised for the pair: give the images and prompts that the two LoRAs were "
            "trained on"
        )
    known = {pair.name for pair in pairs if pair.group is not None} & set(options.coefficients)
    for pair in pairs:
        if pair.name in known:
            yield _weighted(pair, np.asarray(options.coefficients[pair.name], np.float32), METHOD, options)
    yield from direct([pair for pair in pairs if pair.name not in known], options, RULE)


def learned_options(predictor: Any, **changes: Any) -> MergeOptions:
    """Return the options to merge as a Hypernetwork or ConstantCoefficients was trained.

    They hold its coefficients, the kinds of layers that have them, and its k/v rule. `changes` are other fields of
    MergeOptions, and win. The predictor is untyped because naming its class would import torch.
    """
    from lorarar.hypernet.network import ConstantCoefficients  # imports torch, which merging without it must not

    fields: dict[str, Any] = {"learned": predictor.config.learned, "rule": predictor.config.kv_rule}
    if isinstance(predictor, ConstantCoefficients) and not len(predictor.columns):
        fields["constants"] = predictor.constants()
    else:
        fields["predict"] = predict_with(predictor)
    return MergeOptions(**fields | changes)


def predict_with(predictor: Any) -> Predict:
    """Return a function that predicts coefficients by a Hypernetwork or ConstantCoefficients, without gradients.

    It works in fp32 on the CPU, as the factors are, with a copy of the predictor: half precision would lose digits of
    LoRAs, or overflow.
    """
    import torch

    copied = copy.deepcopy(predictor).float().cpu()

    def predict(modules: Sequence[str], *factors: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return copied(*map(torch.from_numpy, factors), modules).numpy()

    return predict


def _coefficients(pairs: Sequence[LayerPair], options: MergeOptions) -> Float[np.ndarray, "n 2 inp"]:
    """Return the coefficients of layers of one shape, without the scales."""
    if options.constants is not None:
        values = [options.constants[str(kind_of(pair.name))] for pair in pairs]
        shape = (len(pairs), 2, pairs[0].content.in_features)
        return np.broadcast_to(np.array(values, np.float32)[:, :, None], shape)
    if options.predict is None:
        raise InputError("the learned method needs a hypernetwork: give `predict`, or `constants` in its place")
    content, style = stack([pair.content for pair in pairs]), stack([pair.style for pair in pairs])
    return options.predict([pair.name.removeprefix(UNET) for pair in pairs], *content, *style)


def _weighted(
    pair: LayerPair, coefficients: Float[np.ndarray, "2 inp"], kind: str, options: MergeOptions
) -> MergedLayer:
    """Apply Eq. 2 to one layer; the coefficients that are told include the scales."""
    scaled = coefficients * np.array(options.scales, np.float32)[:, None]
    return MergedLayer(pair.name, join_columns((pair.content, pair.style), tuple(scaled)), kind, scaled)


def direct(pairs: Sequence[LayerPair], options: MergeOptions, kind: str = METHOD) -> Iterator[MergedLayer]:
    """Average, (ΔW_c + ΔW_s)/2, or by the rule `sum` add up, ΔW_c + ΔW_s (model soups, arXiv 2203.05482).

    The scales multiply each LoRA's share. `kind` is RULE where this is the rule of another method's remaining layers.
    """
    weights = [RULES[options.rule] * scale for scale in options.scales]
    for pair in pairs:
        yield MergedLayer(pair.name, concatenate((pair.content, pair.style), weights), kind)


def norm_balance(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Merge as `direct` does, with both LoRAs brought to one norm: γ·ΔW_c and ΔW_s/γ, γ² = ‖ΔW_s‖ / ‖ΔW_c‖.

    The norms are over all layers that both have, and these alone are balanced. K-LoRA (arXiv 2502.18461) balances its
    two LoRAs by one such number. The scales multiply the balanced shares.
    """
    gamma = balance(pairs)
    content_scale, style_scale = options.content_scale * gamma, options.style_scale / gamma
    if max(abs(content_scale), abs(style_scale)) > np.finfo(np.float32).max:
        raise InputError("the two LoRAs are of too different a size to be brought to one norm; use another method")
    return direct(pairs, replace(options, content_scale=content_scale, style_scale=style_scale))


def balance(pairs: Sequence[LayerPair]) -> float:
    """Return γ, with which γ·ΔW_c and ΔW_s/γ have one norm over all of these layers; 1 where one of them is zero."""
    roles = [pair.content for pair in pairs], [pair.style for pair in pairs]
    content, style = (np.sqrt(sum(layer.squared_norm() for layer in layers)) for layers in roles)
    return float(np.sqrt(style / content)) if content and style else 1.0


def block_router(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Keep the content alone in CONTENT_BLOCKS of the UNet, and the style alone in its other blocks (arXiv 2602.18936).

    Layers outside the UNet follow the rule. The scales multiply ΔW_c and ΔW_s.
    """
    routed = [pair for pair in pairs if pair.name.startswith(UNET)]
    for pair in routed:
        is_content = pair.name.startswith(CONTENT_BLOCKS)
        layer, scale = (pair.content, options.scales[0]) if is_content else (pair.style, options.scales[1])
        yield MergedLayer(pair.name, concatenate((layer,), (scale,)), METHOD)
    yield from direct([pair for pair in pairs if not pair.name.startswith(UNET)], options, RULE)


def np_lora(pairs: Sequence[LayerPair], options: MergeOptions) -> Iterator[MergedLayer]:
    """Merge as NP-LoRA does (arXiv 2511.11051): ΔW_s + ΔW_c·(I − μ/(1+μ)·V Vᵀ), V a basis of down_s's row space.

    V is orthonormal: the content gives way where the style acts. A convolution is taken as its matrix
    (rank, in·kh·kw). Computed in float64; the scales multiply the two terms.
    """
    import torch

    share = options.mu / (1 + options.mu)

    def one(pair: LayerPair) -> MergedLayer:
        ours, theirs = pair.content.load(), pair.style.load()
        content = torch.from_numpy(_rows(ours).astype(np.float64))
        acting = theirs.up.reshape(theirs.out_features, -1).any(axis=0)  # a row with a zero up is not in ΔW_s
        basis = torch.from_numpy(row_space(_rows(theirs)[acting]))
        kept = (content - share * ((content @ basis) @ basis.mT)) * options.content_scale
        down_c = kept.numpy().astype(np.float32).reshape(ours.down.shape)
        down_s = theirs.down * np.float32(options.style_scale)
        layers = LoraLayer(down_c, ours.up), LoraLayer(down_s, theirs.up)
        return MergedLayer(pair.name, join_columns(layers, (1.0, 1.0)), METHOD)

    return per_core(one, pairs)


def row_space(matrix: Float[np.ndarray, "rank inp"]) -> Float[np.ndarray, "inp basis"]:
    """Return an orthonormal basis of the rows' span, in float64; zero, duplicate and dependent rows add no direction.

    Rows are scaled to length 1 first, so that a row counts whatever its size: `up` may hold its inverse.
    """
    import torch

    rows = matrix.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return np.zeros((matrix.shape[1], 0))
    _, sizes, basis = (part.numpy() for part in torch.linalg.svd(torch.from_numpy(rows), full_matrices=False))
    # The rows were rounded to float32, so a dependent row leaves a residue of about that size.
    return basis[sizes > sizes[0] * max(8, len(rows)) * np.finfo(np.float32).eps].T


def _rows(layer: LoraLayer) -> Float[np.ndarray, "rank inp"]:
    return layer.down.reshape(layer.rank, -1)


def stack(layers: Sequence[LoraLayer]) -> tuple[Float[np.ndarray, "n rank inp"], Float[np.ndarray, "n out rank"]]:
    """Stack linear layers of one shape as two arrays; shorter ranks are padded with zeros, which is exact."""
    rank = max(layer.rank for layer in layers)
    padded = [pad_rank(layer.load(), rank) for layer in layers]
    return np.stack([layer.down for layer in padded]), np.stack([layer.up for layer in padded])
