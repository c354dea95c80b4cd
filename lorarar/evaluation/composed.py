"""Draw a pair without a merge: at each step the UNet answers with each LoRA alone, and the answers are put together.

That takes four passes a step in the place of guidance's two. Composed, it may be done for the first steps alone, which
settle what is where and in which colours; a merge draws the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorarar.base.attach import attached, factors_by_part
from lorarar.base.components import Condition
from lorarar.evaluation.generate import PutOn
from lorarar.evaluation.scheduled import Span
from lorarar.lora import LoRA
from lorarar.merging.klora import BeforeStep

PARTS = 4  # rows for one image


@contextmanager
def composed(content: LoRA, style: LoRA, prompts: Condition, unet: nn.Module) -> Iterator[BeforeStep]:
    """Let the UNet answer the prompt with ε(L_c; "a sks dog") + ε(L_s; "a dog in watercolour style") − ε("a dog").

    See lorarar.composed. The answer without a prompt is the base's. `lorarar train --joint composed` teaches this to a
    merge.
    `prompts` are three rows: the content's prompt, the class in the style, the class. The batch's own prompt is not
    looked at. Linears only. Raises InputError as `attached`.
    """
    told = {"encoder_hidden_states": prompts.embeds, "text_embeds": prompts.pooled}

    def arrange(name: str, free: Tensor, asked: Tensor) -> Tensor:
        if name not in told:
            return torch.cat([free, asked, asked, asked])
        return torch.cat([free, told[name].to(free.dtype).repeat_interleave(len(free), 0)])

    def combine(free: Tensor, of_content: Tensor, of_style: Tensor, of_class: Tensor) -> tuple[Tensor, Tensor]:
        return free, of_content + of_style - of_class

    with _in_parts(unet, {(1,): content, (2,): style}, arrange, combine):
        yield lambda step, steps: None


@contextmanager
def remembered(start: PutOn, answers: MutableMapping[bytes, Tensor], unet: nn.Module) -> Iterator[BeforeStep]:
    """Put `start` on the UNet, and keep its answers: what was asked before takes no pass of the UNet.

    `answers` is by noise level and latents, and so for one `start` with its prompts. The composed steps of a pair are
    the same for all methods, whichever merge draws the rest.
    """
    with start(unet) as before_step:
        answer = unet.forward

        def forward(sample: Tensor, timestep: Tensor, **told: Any) -> tuple[Tensor]:
            asked = hashlib.sha256(b"".join(_bytes(each) for each in (timestep, sample))).digest()
            if asked not in answers:
                answers[asked] = answer(sample, timestep, **told)[0]
            return (answers[asked].clone(),)

        unet.forward = forward
        try:
            yield before_step
        finally:
            unet.forward = answer  # what `start` put there, and takes away itself


def _bytes(values: Tensor) -> bytes:
    return values.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()


@contextmanager
def composed_start(start: PutOn, rest: PutOn, span: Span, unet: nn.Module) -> Iterator[BeforeStep]:
    """Put `start` on the UNet for a span of the steps, and `rest` for the others."""
    on = ExitStack()
    is_start: bool | None = None
    inner: BeforeStep | None = None

    def to_step(step: int, steps: int) -> None:
        nonlocal is_start, inner
        wanted = span.holds(step, steps)
        if wanted != is_start:
            on.close()
            inner, is_start = on.enter_context((start if wanted else rest)(unet)), wanted
        assert inner is not None
        inner(step, steps)

    with on:
        yield to_step


@contextmanager
def composite(content: LoRA, style: LoRA, unet: nn.Module) -> Iterator[BeforeStep]:
    """Let the UNet answer with the mean of what it says with each LoRA alone, with the prompt and without.

    LoRA Composite (arXiv 2402.16843). Linears only. Raises InputError as `attached`.
    """

    def arrange(name: str, free: Tensor, asked: Tensor) -> Tensor:
        return torch.cat([free, free, asked, asked])

    def combine(free: Tensor, free_too: Tensor, asked: Tensor, asked_too: Tensor) -> tuple[Tensor, Tensor]:
        return (free + free_too) / 2, (asked + asked_too) / 2

    with _in_parts(unet, {(0, 2): content, (1, 3): style}, arrange, combine):
        yield lambda step, steps: None


@contextmanager
def _in_parts(
    unet: nn.Module,
    loras: Mapping[tuple[int, ...], LoRA],
    arrange: Callable[[str, Tensor, Tensor], Tensor],
    combine: Callable[..., tuple[Tensor, Tensor]],
) -> Iterator[None]:
    """Run a guided batch as PARTS parts, each LoRA in some of them, and put the answers together again.

    `arrange` makes the parts of an input by name from its halves, without the prompt and with it.
    """
    answer, device = unet.forward, next(unet.parameters()).device

    def parts(name: str, rows: Tensor) -> Tensor:
        return arrange(name, *rows.chunk(2)) if rows.ndim else rows

    def forward(
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor],
        **more: Any,
    ) -> tuple[Tensor]:
        made = answer(
            parts("sample", sample),
            parts("timestep", timestep),
            parts("encoder_hidden_states", encoder_hidden_states),
            added_cond_kwargs={name: parts(name, rows) for name, rows in added_cond_kwargs.items()},
            **more,
        )
        return (torch.cat(combine(*made[0].chunk(PARTS))),)

    with ExitStack() as stack:
        for on, lora in loras.items():
            is_on = [part in on for part in range(PARTS)]
            stack.enter_context(attached(unet, factors_by_part(lora, is_on, device)))
        unet.forward = forward
        stack.callback(lambda: delattr(unet, "forward"))  # the class's own again
        yield
