"""Draw a pair without a merge: at each step both LoRAs' own predictions are put together.

ε(L_c; "a sks dog") + ε(L_s; "a dog in watercolour style") − ε("a dog"), the score of images that fit both where the two
do not depend on each other (composable diffusion, arXiv 2206.01714). It takes four passes a step in the place of
guidance's two. `lorarar train --joint composed` teaches it to a merge, which takes two.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorarar.base.attach import Factors, attached
from lorarar.base.components import Condition
from lorarar.lora import LoRA
from lorarar.merging.klora import OnStep

PARTS = 4  # rows of one image: the empty prompt, content, styled class, class


@contextmanager
def composed(content: LoRA, style: LoRA, prompts: Condition, unet: nn.Module) -> Iterator[OnStep]:
    """Let the UNet answer a guided batch with the composed prediction in its second half, the prompt's.

    `prompts` are three rows: the content's prompt, the class in the style, the class. The batch's own prompt is not
    looked at. Linears only. Raises InputError as `attached`.
    """
    answer = unet.forward

    def forward(
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor],
        **more: Any,
    ) -> Any:
        images = len(sample) // 2

        def rows(of_batch: Tensor, of_prompts: Tensor) -> Tensor:
            return torch.cat([of_batch[:images], of_prompts.to(of_batch.dtype).repeat_interleave(images, 0)])

        told = {
            "text_embeds": rows(added_cond_kwargs["text_embeds"], prompts.pooled),
            "time_ids": rows(added_cond_kwargs["time_ids"], prompts.time_ids),
        }

        def parts(of_batch: Tensor) -> Tensor:
            return torch.cat([of_batch[:images], *[of_batch[images:]] * (PARTS - 1)])

        times = parts(timestep) if timestep.ndim else timestep
        made = answer(parts(sample), times, rows(encoder_hidden_states, prompts.embeds), added_cond_kwargs=told, **more)
        free, of_content, of_style, of_class = made[0].chunk(PARTS)
        return (torch.cat([free, of_content + of_style - of_class]),)

    with attached(unet, _factors(content, 1, unet)), attached(unet, _factors(style, 2, unet)):
        unet.forward = forward
        try:
            yield lambda step, steps: None
        finally:
            del unet.forward  # the class's own again


def _factors(lora: LoRA, part: int, unet: nn.Module) -> dict[str, Factors]:
    """Return a LoRA's factors for one part of a batch, and zeros for the others."""
    device = next(unet.parameters()).device
    is_on = torch.zeros(PARTS, 1, 1, device=device)
    is_on[part] = 1
    found = {}
    for name, layer in lora.layers.items():
        loaded = layer.load()
        down, up = (torch.from_numpy(factor).to(device) for factor in (loaded.down, loaded.up))
        found[name] = Factors(down * is_on, up.expand(PARTS, -1, -1))
    return found
