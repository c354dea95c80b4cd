"""Draw what the merging loss is trained on: LoRAs, latents and prompts of both roles, each step's pairs and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lorarar.base.components import Components, Denoiser, target
from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import LoRA, open_lora
from lorarar.training.bank import LoraBank, Pack
from lorarar.training.dataset import Content, Dataset, Style
from lorarar.training.examples import Examples, Reference, encode_concepts, seeded_generator
from lorarar.training.joint import JointBatch, JointData, in_turn, load_joint, together
from lorarar.training.loss import PairBatch

# Streams of random numbers: one for each use of a seed, so that none repeats another's draws.
_PAIRS, _STEPS, _VALIDATION = 1, 2, 3


@dataclass(frozen=True)
class RoleData:
    """The LoRAs and examples of one role, in the same order."""

    bank: LoraBank
    examples: Examples


@dataclass(frozen=True)
class Draw:
    """The rows of a step: pairs (content, style), an image of each, their noise and timesteps; the joint term's own."""

    pairs: tuple[tuple[int, int], ...]
    images: Float[Tensor, "rows 2"]  # in [0, 1): which of the images, for content and style
    noise: Float[Tensor, "rows 2 c y x"]
    timesteps: Int[Tensor, "rows 2"]
    joint_images: Float[Tensor, " rows"]
    joint_noise: Float[Tensor, "rows c y x"]
    joint_timesteps: Int[Tensor, " rows"]

    def take(self, rows: Sequence[int]) -> Draw:
        """Return some of the rows."""
        index = torch.tensor(rows, dtype=torch.long)
        pairs = tuple(self.pairs[row] for row in rows)
        tensors = (value[index] for name, value in vars(self).items() if name != "pairs")
        return Draw(pairs, *tensors)


@dataclass(frozen=True)
class PairData:
    """The data of both roles, and the pairs of one part of a split that are used, as positions in them."""

    contents: RoleData
    styles: RoleData
    pairs: tuple[tuple[int, int], ...]
    joint: JointData | None = None

    def draw(self, step: int, count: int, seed: int, timesteps: int) -> Draw:
        """Draw the whole batch of a step, by seed and step alone; `timesteps` is the length of the noise schedule.

        Pairs are drawn independently (Algorithm 1), timesteps uniformly. Every process draws the same and takes its
        rows, so the result depends neither on their number nor on where a training was resumed.
        """
        generator = seeded_generator(seed, _STEPS, step)
        chosen = torch.randint(len(self.pairs), (count,), generator=generator)
        times = torch.randint(timesteps, (count, 2), generator=generator)
        return self._draw([self.pairs[i] for i in chosen.tolist()], times, timesteps, generator)

    def validation(self, draws: int, seed: int, timesteps: int) -> Draw:
        """Draw a fixed batch: every pair at `draws` timesteps, one from each equal part of the schedule."""
        generator = seeded_generator(seed, _VALIDATION, 0)
        pairs = [pair for pair in self.pairs for _ in range(draws)]
        parts = torch.arange(draws).repeat(len(self.pairs))[:, None]
        shares = (parts + torch.rand((len(pairs), 2), generator=generator)) / draws
        return self._draw(pairs, (shares * timesteps).long().clamp(max=timesteps - 1), timesteps, generator)

    def _draw(
        self,
        pairs: Sequence[tuple[int, int]],
        times: Int[Tensor, "rows 2"],
        timesteps: int,
        generator: torch.Generator,
    ) -> Draw:
        shape, rows = self.contents.examples.latents[0].shape[1:], len(pairs)
        images = torch.rand((rows, 2), generator=generator)
        noise = torch.randn((rows, 2, *shape), generator=generator)
        # Drawn last: the other draws are the same with a joint term and without.
        joint = (
            torch.rand(rows, generator=generator),
            torch.randn((rows, *shape), generator=generator),
            torch.randint(timesteps, (rows,), generator=generator),
        )
        return Draw(tuple(pairs), images, noise, times, *joint)

    def batch(self, components: Denoiser, draw: Draw) -> tuple[PairBatch, tuple[Pack, Pack]]:
        """Return the noised examples of a draw, content and style rows in turn, and the pairs' LoRAs; on the device."""
        device = components.device
        latents, conditions = [], []
        for (content, style), places in zip(draw.pairs, draw.images.tolist(), strict=True):
            for role, index, place in ((self.contents, content, places[0]), (self.styles, style, places[1])):
                images = role.examples.latents[index]
                latents.append(images[int(place * len(images))])
                conditions.append(role.examples.condition.take(torch.tensor([index], device=device)))
        times = draw.timesteps.flatten().to(device)
        clean, noise = torch.stack(latents), draw.noise.flatten(0, 1).to(device)
        noised = components.noise.add_noise(clean, noise.to(clean.dtype), times)
        packs = (
            self.contents.bank.take([content for content, _ in draw.pairs], device),
            self.styles.bank.take([style for _, style in draw.pairs], device),
        )
        return PairBatch(noised, times, together(conditions), self._joint(components, draw)), packs

    def _joint(self, components: Denoiser, draw: Draw) -> JointBatch | None:
        """Return the joint rows of a draw."""
        joint, device = self.joint, components.device
        if joint is None:
            return None
        times, noise = draw.joint_timesteps.to(device), draw.joint_noise.to(device)
        asked = zip(draw.pairs, draw.joint_images.tolist(), strict=True)
        clean = torch.stack([self._joint_latents(pair, place) for pair, place in asked]).to(device)
        noised = components.noise.add_noise(clean, noise, times)
        condition = together([joint.merged[pair] for pair in draw.pairs]).to(device)
        if not joint.composed:
            known = torch.tensor([float(pair in joint.latents) for pair in draw.pairs], device=device)
            return JointBatch(noised, times, condition, target(components, clean, noise, times), known)
        own = self.contents.examples.condition.take(torch.tensor([content for content, _ in draw.pairs], device=device))
        styled = together([joint.styled[pair] for pair in draw.pairs]).to(device)
        plain = together([joint.plain[content] for content, _ in draw.pairs]).to(device)
        return JointBatch(noised, times, condition, apart=in_turn(own, styled), plain=plain)

    def _joint_latents(self, pair: tuple[int, int], place: float) -> Float[Tensor, "c y x"]:
        """Return one of a pair's images by a number in [0, 1): without any, for a composed answer, of either side's."""
        joint = self.joint
        assert joint is not None
        images = joint.latents.get(pair)
        if images is None and not joint.composed:
            return torch.zeros(self.contents.examples.latents[0].shape[1:])  # it has no weight
        if images is None:
            side, place = int(place * 2), place * 2 % 1
            images = (self.contents, self.styles)[side].examples.latents[pair[side]].cpu()
        return images[int(place * len(images))]


def choose_pairs(contents: int, styles: int, combinations: int | None, seed: int) -> tuple[tuple[int, int], ...]:
    """Choose `combinations` of all pairs of so many contents and styles, seeded; all for None or if there are fewer."""
    pairs = list(product(range(contents), range(styles)))
    if combinations is None or combinations >= len(pairs):
        return tuple(pairs)
    chosen = np.random.default_rng([seed, _PAIRS]).choice(len(pairs), combinations, replace=False)
    return tuple(pairs[i] for i in sorted(chosen.tolist()))


@dataclass(frozen=True)
class Parts:
    """The training pairs and, where the split has any, the validation pairs."""

    train: PairData
    validation: PairData | None


def load_parts(
    components: Components,
    layout: Layout,
    dataset: Dataset,
    split: str,
    combinations: int | None = None,
    seed: int = 0,
    joint: str = "none",
    joint_images: Path | None = None,
) -> Parts:
    """Read the LoRAs of a split's training and validation parts and encode their images and prompts, once.

    Raises InputError for an unknown split, an empty training part, LoRA files that are missing or don't fit the base,
    and images that can't be read.
    """
    train, validation = dataset.part(split, "train"), dataset.part(split, "validation")
    if not all(train):
        raise InputError(f"{dataset.folder}: the split {split!r} has no contents or no styles to train on; add some")
    entries = dataset.trained_on(split)
    dataset.check_loras(entries)
    loras = {entry.lora: open_lora(entry.lora) for entry in entries}
    rank = max(lora.max_rank for lora in loras.values())

    def data(part: tuple[Sequence[Content], Sequence[Style]], combinations: int | None) -> PairData:
        contents, styles = (
            _role(components, layout, [loras[entry.lora] for entry in role], role, rank) for role in part
        )
        pairs = choose_pairs(len(part[0]), len(part[1]), combinations, seed)
        return PairData(contents, styles, pairs, load_joint(components, joint, *part, pairs, joint_images))

    return Parts(data(train, combinations), data(validation, None) if all(validation) else None)


def _role(
    components: Components, layout: Layout, loras: Sequence[LoRA], concepts: Sequence[Reference], rank: int
) -> RoleData:
    return RoleData(LoraBank.of(loras, layout, rank), encode_concepts(components, concepts))


def single_pair(
    components: Components, layout: Layout, loras: tuple[LoRA, LoRA], concepts: tuple[Reference, Reference]
) -> PairData:
    """Make the data of one content and one style. Raises InputError as `load_parts` for LoRAs and images."""
    rank = max(lora.max_rank for lora in loras)
    contents, styles = (
        _role(components, layout, [lora], [concept], rank) for lora, concept in zip(loras, concepts, strict=True)
    )
    return PairData(contents, styles, ((0, 0),))
