"""Keep the subject under words for a style: a part of a LoRA's training that is not in the paper.

A subject's LoRA learns a few images under one prompt. Under another, such as the prompt of a merge, "a sks dog in
watercolor style", it may draw any dog: it has never seen these words. So a share of the examples can be learned under
them. No image shows the subject in that style; the right answer is put together from what is known, the LoRA's own
answer to its own prompt, and what the words change in the base: ε(L; "a sks dog") + ε("a dog in watercolor style") −
ε("a dog"), the score of images that fit both where the two do not depend on each other (composable diffusion, arXiv
2206.01714).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lorarar.base.components import Components, Condition, encode_prompts, predict
from lorarar.training.examples import Batch
from lorarar.training.joint import at_least_fp32, together
from lorarar.training.style_words import StyleWords, in_style


def is_styled(example: int, share: float) -> bool:
    """Tell whether the training's `example` (from 0) is a styled one: equally spread, at any batch size."""
    return int((example + 1) * share) > int(example * share)


@dataclass(frozen=True)
class StyledPrompts:
    """The encoded prompts of a subject in styles; rows as the styles, `plain` alone."""

    own: Condition  # "a sks dog in watercolor style"
    of_class: Condition  # "a dog in watercolor style"
    plain: Condition  # "a dog"

    @classmethod
    def encode(cls, components: Components, prompt: str, words: StyleWords) -> StyledPrompts:
        """Encode a subject's prompt and its class in each style."""

        def styled(said: str) -> Condition:
            return encode_prompts(components, [in_style(said, style) for style in words.styles])

        plain = encode_prompts(components, [words.subject_class])
        return cls(styled(prompt), styled(words.subject_class), plain)

    def put_in(
        self, model: Any, unet: Any, batch: Batch, noisy: Tensor, goal: Float[Tensor, "b c y x"], at: Sequence[int]
    ) -> tuple[Condition, Float[Tensor, "b c y x"]]:
        """Return the batch's condition and goal with those of styled examples in the rows `at`.

        `model` is `unet` as it is trained, its LoRA on.
        """
        device = noisy.device
        index, styles = torch.tensor(at, device=device), self._chosen(batch, at)
        noise, times = noisy[index], batch.timesteps[index]
        with torch.no_grad():
            own = at_least_fp32(predict(model, noise, times, batch.condition.take(index)))
            with _without_adapter(unet):
                told = together([self.of_class.take(styles), self.plain.expand(len(at))])
                styled, base = at_least_fp32(predict(model, noise.repeat(2, 1, 1, 1), times.repeat(2), told)).chunk(2)
        goal = goal.index_copy(0, index, (own + styled - base).to(goal.dtype))
        said = self.own.take(styles)
        parts = ((getattr(batch.condition, name), part) for name, part in vars(said).items())
        return Condition(*(whole.index_copy(0, index, part) for whole, part in parts)), goal

    def _chosen(self, batch: Batch, at: Sequence[int]) -> Tensor:
        count = len(self.own.embeds)
        return torch.tensor([int(batch.chances[row] * count) for row in at], device=self.own.embeds.device)


@contextmanager
def _without_adapter(unet: Any) -> Iterator[None]:
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()
