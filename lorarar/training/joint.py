"""The joint term of the merging loss: what the merged LoRAs should say of the *merged* prompt.

Eq. 3 (paper §3.4) asks of a merge that it says of the content's prompt what the content LoRA says, and of the style's
prompt what the style LoRA says. A user asks for both at once. Two things can stand for the right answer there:

`composed`: the two LoRAs' own predictions, put together as probabilities are that do not depend on each other,
ε(L_c; "a sks dog") + ε(L_s; "a dog in watercolour style") − ε("a dog"). No images of pairs are needed.

`images`: images of the pairs (drawn, or the best of several merges), learned from as any diffusion model learns.

Images are drawn by guidance, which goes away from the answer to the empty prompt. A merge that is on for that answer
too has some of the subject and the style in it, and guidance takes them off. So the term can compare guided answers:
then the merge learns to make up for that.

The composed answer can be asked for on any noised image. Those of the pairs, where there are some, are what the merge
will meet; else the content's and the style's stand in for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorarar.base.attach import attached
from lorarar.base.components import Components, Condition, encode_prompts, predict
from lorarar.errors import InputError
from lorarar.images import find_images, is_image
from lorarar.layout import Layout
from lorarar.training.bank import Pack, alternating_factors
from lorarar.training.dataset import Content, Style, composed_prompts, merged_prompt, pair_folder
from lorarar.training.examples import encode_files

PROMPTS_AT_ONCE = 32

Pair = tuple[int, int]


@dataclass(frozen=True)
class JointBatch:
    """The joint rows of p pairs: noised latents under the merged prompt, and what their answer is taken from."""

    latents: Float[Tensor, "p c y x"]
    timesteps: Int[Tensor, " p"]
    condition: Condition
    goal: Float[Tensor, "p c y x"] | None = None  # of `images`
    known: Float[Tensor, " p"] | None = None  # of `images`: 1 for a pair that has some, else 0
    apart: Condition | None = None  # of `composed`: 2p rows, content's prompt and styled class in turn
    plain: Condition | None = None  # of `composed`: the class

    def answer(
        self, unet: Any, layout: Layout, loras: tuple[Pack, Pack], strength: float = 1.0, guidance: float = 1.0
    ) -> Float[Tensor, "p c y x"]:
        """Return the goal, guided away from what the base says of the empty prompt.

        A composed one takes three passes, and has `strength` of the style's change.
        """
        goal = self._prompted(unet, layout, loras, strength)
        if guidance == 1:
            return goal
        empty = predict(unet, self.latents, self.timesteps, without_prompt(self.condition))
        return guided(goal, at_least_fp32(empty), guidance)

    def _prompted(
        self, unet: Any, layout: Layout, loras: tuple[Pack, Pack], strength: float
    ) -> Float[Tensor, "p c y x"]:
        if self.apart is None or self.plain is None:
            assert self.goal is not None
            return self.goal
        twice, times = self.latents.repeat_interleave(2, 0), self.timesteps.repeat_interleave(2)
        with attached(unet, alternating_factors(layout, *loras)):
            both = at_least_fp32(predict(unet, twice, times, self.apart))
        plain = at_least_fp32(predict(unet, self.latents, self.timesteps, self.plain))
        return both[0::2] + strength * (both[1::2] - plain)


@dataclass(frozen=True)
class JointData:
    """The encoded prompts of pairs, by pair, and the latents of their images; on the CPU."""

    merged: dict[Pair, Condition]
    styled: dict[Pair, Condition]  # "a dog in watercolour style"; empty for `images`
    plain: dict[int, Condition]  # "a dog" by content; empty for `images`
    latents: dict[Pair, Float[Tensor, "_ c y x"]]  # of the pairs that have images

    @property
    def composed(self) -> bool:
        return bool(self.styled)


def load_joint(
    components: Components,
    kind: str,
    contents: Sequence[Content],
    styles: Sequence[Style],
    pairs: Sequence[Pair],
    images: Path | None,
) -> JointData | None:
    """Encode what the joint term needs of some pairs; None for the kind `none`.

    `images` is the folder of the pairs' images, one folder a pair as `lorarar evaluate` writes them. Of the kind
    `images`, pairs without one take no part. Raises InputError for images that can't be read.
    """
    if kind == "none":
        return None
    named = {pair: (contents[pair[0]], styles[pair[1]]) for pair in pairs}
    merged = _encoded(components, {pair: merged_prompt(*both) for pair, both in named.items()})
    latents: dict[Pair, Tensor] = {}
    if images is not None:
        folders = {pair: pair_folder(images, content.name, style.name) for pair, (content, style) in named.items()}
        # A stopped evaluation leaves folders without images.
        drawn = [pair for pair, folder in folders.items() if any(map(is_image, folder.glob("*")))]
        latents = {pair: encode_files(components, find_images([folders[pair]])).cpu() for pair in drawn}
    if kind == "images":
        return JointData(merged, {}, {}, latents)
    styled = {pair: composed_prompts(*both)[1] for pair, both in named.items()}
    plain = {pair[0]: composed_prompts(*both)[2] for pair, both in named.items()}
    return JointData(merged, _encoded(components, styled), _encoded(components, plain), latents)


def check_joint_images(kind: str, images: Path | None) -> None:
    """Refuse a folder of images that the joint term does not take, or that is missing where it does."""
    if kind == "images" and images is None:
        raise InputError("the joint term 'images' needs a folder of images; give `joint_images`")
    if kind == "none" and images is not None:
        raise InputError("the joint term 'none' takes no `joint_images`; leave it out, or give `joint`")
    if images is not None and not images.is_dir():
        raise InputError(f"{images}: no such folder; give one with a folder of images for each pair")


def _encoded(components: Components, prompts: dict[Any, str]) -> dict[Any, Condition]:
    """Encode prompts by key, each text once."""
    texts = list(dict.fromkeys(prompts.values()))
    rows: dict[str, Condition] = {}
    for first in range(0, len(texts), PROMPTS_AT_ONCE):
        part = texts[first : first + PROMPTS_AT_ONCE]
        found = encode_prompts(components, part).to("cpu")
        rows |= {text: found.take(torch.tensor([row])) for row, text in enumerate(part)}
    return {key: rows[text] for key, text in prompts.items()}


def without_prompt(condition: Condition) -> Condition:
    """Return the conditions with the empty prompt in the place of theirs: SDXL's pipelines have zeros for it."""
    return replace(condition, embeds=torch.zeros_like(condition.embeds), pooled=torch.zeros_like(condition.pooled))


def at_least_fp32(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Widen an answer of the UNet in bf16 or fp16: sums and differences of several would be rounded once more."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def guided(
    prompted: Float[Tensor, "p c y x"], empty: Float[Tensor, "p c y x"], guidance: float
) -> Float[Tensor, "p c y x"]:
    """Return what guidance makes of the answers to a prompt and to the empty one, divided by its scale."""
    return prompted + (1 / guidance - 1) * empty


def in_turn(one: Condition, other: Condition) -> Condition:
    """Take the rows of two conditions in turn."""
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return Condition(*(torch.stack(rows, dim=1).flatten(0, 1) for rows in pairs))


def together(conditions: Sequence[Condition]) -> Condition:
    """Put the rows of several conditions under each other."""
    return Condition(*(torch.cat([getattr(row, item.name) for row in conditions]) for item in fields(Condition)))
