"""Take the merging loss of Eq. 3 (paper §3.4) for a batch of pairs.

L = ‖(D⊕L_m)(x_c, p_c) − (D⊕L_c)(x_c, p_c)‖ + ‖(D⊕L_m)(x_s, p_s) − (D⊕L_s)(x_s, p_s)‖ + λ|m_c·m_s|

Two passes of the UNet for any number of pairs: one with each row's own LoRA and no gradient, one with the merges. A
joint term (lorarar.training.joint), which the paper does not have, can be added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from lorarar.base.attach import attached
from lorarar.base.components import Condition, predict
from lorarar.layout import Layout
from lorarar.training.bank import Coefficients, Pack, alternating_factors, merged_factors
from lorarar.training.hyper_settings import LossSettings
from lorarar.training.joint import JointBatch, at_least_fp32, guided, without_prompt

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class PairBatch:
    """The examples of p pairs: 2p rows, content and style in turn. `latents` are noised up to `timesteps`."""

    latents: Float[Tensor, "rows c y x"]
    timesteps: Int[Tensor, " rows"]
    condition: Condition
    joint: JointBatch | None = None


@dataclass(frozen=True)
class Loss:
    """The terms of Eq. 3, each a mean over the pairs, and the joint one; `orthogonality` is without λ, `joint` without
    its weight. `total` alone has a gradient.
    """

    total: Float[Tensor, ""]
    content: Float[Tensor, ""]
    style: Float[Tensor, ""]
    orthogonality: Float[Tensor, ""]
    joint: Float[Tensor, ""]


@contextmanager
def merging_loss(
    unet: Any,
    batch: PairBatch,
    layout: Layout,
    loras: tuple[Pack, Pack],
    coefficients: Coefficients,
    settings: LossSettings,
    autocast: Autocast = nullcontext,
) -> Iterator[Loss]:
    """Yield the loss with the merged LoRAs on the UNet, where gradient checkpointing needs them: call backward inside.

    `loras` are the pairs' content and style LoRAs. `autocast` is entered around the UNet's passes alone; distances are
    taken in fp32 or better.
    """
    joint = batch.joint
    guidance = 1.0 if joint is None else settings.joint_guidance
    with torch.no_grad(), autocast():
        goal = _goal(unet, batch, layout, loras, settings)
        without = _said(unet, batch, guidance) if settings.distance == "change" else None
    with attached(unet, merged_factors(layout, *loras, coefficients)):
        with autocast():
            have = _said(unet, batch, guidance)
        terms = distances(have, goal, settings.distance, without).unflatten(0, (-1, 2 if joint is None else 3))
        of_content, of_style = terms[:, 0].mean(), terms[:, 1].mean()
        term = orthogonality(coefficients.learned, settings.regulariser)
        zero = of_content.new_zeros(())
        term, of_joint = zero if term is None else term, zero
        if joint is not None:
            of_joint = (terms[:, 2] if joint.known is None else terms[:, 2] * joint.known).mean()
        total = of_content + of_style + settings.weight * term + settings.joint_weight * of_joint
        yield Loss(total, of_content.detach(), of_style.detach(), term.detach(), of_joint.detach())


def _goal(
    unet: Any, batch: PairBatch, layout: Layout, loras: tuple[Pack, Pack], settings: LossSettings
) -> Float[Tensor, "rows c y x"]:
    """Return what each row is compared with: its own LoRA's answer, and the joint answer."""
    with attached(unet, alternating_factors(layout, *loras)):
        own = at_least_fp32(predict(unet, batch.latents, batch.timesteps, batch.condition))
    if batch.joint is None:
        return own
    return _beside(own, batch.joint.answer(unet, layout, loras, settings.joint_style, settings.joint_guidance))


def _said(unet: Any, batch: PairBatch, guidance: float) -> Float[Tensor, "rows c y x"]:
    """Return what the UNet, as it is, says of each row; of the joint ones with guidance."""
    found = at_least_fp32(predict(unet, *_all(batch, guidance != 1)))
    if guidance == 1:
        return found
    *pairs, asked, empty = found.unflatten(0, (-1, 4)).unbind(1)
    return torch.stack([*pairs, guided(asked, empty, guidance)], dim=1).flatten(0, 1)


def _beside(pairs: Shaped[Tensor, "rows ..."], *joint: Shaped[Tensor, "p ..."]) -> Shaped[Tensor, "all ..."]:
    """Put each pair's joint rows behind its two: rows that share a merge have to follow each other."""
    return torch.stack([*pairs.unflatten(0, (-1, 2)).unbind(1), *(row.to(pairs.dtype) for row in joint)], 1).flatten(
        0, 1
    )


def _all(batch: PairBatch, with_empty: bool) -> tuple[Tensor, Tensor, Condition]:
    """Return the latents, timesteps and conditions of a pair's rows: content, style, joint, and the joint one again
    under the empty prompt.
    """
    joint = batch.joint
    if joint is None:
        return batch.latents, batch.timesteps, batch.condition
    conditions = [joint.condition, without_prompt(joint.condition)][: 1 + with_empty]
    told = zip(vars(batch.condition).values(), *(vars(row).values() for row in conditions), strict=True)
    condition = Condition(*(_beside(*rows) for rows in told))
    times = 1 + with_empty
    return (
        _beside(batch.latents, *[joint.latents] * times),
        _beside(batch.timesteps, *[joint.timesteps] * times),
        condition,
    )


def distances(
    have: Float[Tensor, "rows c y x"],
    want: Float[Tensor, "rows c y x"],
    kind: str,
    without: Float[Tensor, "rows c y x"] | None = None,
) -> Float[Tensor, " rows"]:
    """Return how far each row is from its goal: a key of DISTANCES.

    The mean square of a difference is (|a| − |b|)² + 2|a||b|(1 − cos), for the change a that the merge makes to the
    base's answer and the wanted b. So a merge that can't have the right direction does best to change little, and
    shows neither subject nor style. `change` has |b|² for |a||b|. It needs the base's answer, `without` LoRAs.
    """
    if kind == "change":
        assert without is not None
        made, wanted = ((rows - without).flatten(1) for rows in (have, want))
        size, goal = torch.linalg.vector_norm(made, dim=1), torch.linalg.vector_norm(wanted, dim=1)
        turned = 1 - F.cosine_similarity(made, wanted, dim=1)
        return ((size - goal) ** 2 + 2 * goal**2 * turned) / made.shape[1]
    if kind == "l2":
        return torch.linalg.vector_norm(have - want, dim=(1, 2, 3))
    return ((have - want) ** 2).mean(dim=(1, 2, 3))


def orthogonality(learned: Sequence[Float[Tensor, "p _ 2 _"]], kind: str) -> Float[Tensor, ""] | None:
    """Return |m_c·m_s| of the learned layers, a mean over the pairs; `kind` is a key of REGULARISERS. None for `none`.

    `dot` divides each layer's product by its columns and takes the mean over layers. Eq. 3 names no normalisation; as
    printed (`dot-sum`) the term grows with the size of the base, to 83,200 at coefficients of 0.5 on SDXL's q and out.
    """
    if kind == "none" or not learned:
        return None
    layers = []
    for pairs in learned:
        m_c, m_s = pairs[:, :, 0], pairs[:, :, 1]
        if kind == "cosine":
            layers.append(F.cosine_similarity(m_c, m_s, dim=2).abs())
        else:
            products = m_c * m_s
            layers.append((products.mean(dim=2) if kind == "dot" else products.sum(dim=2)).abs())
    terms = torch.cat(layers, dim=1)  # (p, all learned layers)
    return terms.mean() if kind == "dot" else terms.sum(dim=1).mean()
