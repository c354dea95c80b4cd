"""What SSR-Merge looks at: the inputs of a base's linears under each LoRA's own prompt, as Gram matrices of both LoRAs.

One UNet pass a LoRA, at the step of pure noise, with that LoRA on, as the authors' code does; no image is needed. The
inputs of to_k and to_v in cross-attention are the text encoders' outputs, so that these layers' matrices need no pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.base.attach import fused
from lorarar.base.components import Components, Condition, encode_prompts, predict, require_prompts
from lorarar.base.names import unet_layout
from lorarar.base.sources import latent_scale
from lorarar.layout import UNET
from lorarar.lora import LoRA
from lorarar.merging import Merged, MergeOptions, align, merge_loras

SEED = 42  # of the noise, as in the authors' code
Grams = dict[str, Float[np.ndarray, "2 r r"]]


def merge_by_ssr(
    components: Components,
    content: LoRA,
    style: LoRA,
    prompts: tuple[str, str],
    *,
    text_only: bool = False,
    options: MergeOptions | None = None,
    on_pass: Callable[[int, int], None] | None = None,
) -> Merged:
    """Measure Gram matrices under the content's and the style's prompt, and merge with them.

    `text_only` looks at to_k and to_v of cross-attention alone, which needs no UNet pass; the other layers follow
    `options.rule`. `components` are as before when it returns. Raises InputError for LoRAs that do not fit the
    base, and for an empty prompt.
    """
    require_prompts(prompts)
    layout = unet_layout(components.unet, components.name)
    align(content, style, layout)  # refuses LoRAs of another base, before the base is run on them
    downs = shared_downs(content, style, components)
    condition = encode_prompts(components, prompts)
    if text_only:
        grams = text_grams(downs, condition)
    else:
        grams = pass_grams(components, (content, style), downs, condition, on_pass)
    options = replace(options or MergeOptions(), grams=grams)
    method = "ssr-text" if text_only else "ssr"
    facts = {"content_prompt": prompts[0], "style_prompt": prompts[1]}
    return merge_loras(content, style, layout, method, options).with_facts(facts)


def shared_downs(content: LoRA, style: LoRA, components: Components) -> dict[str, Float[Tensor, "r inp"]]:
    """Return [down_c; down_s] of the UNet's linears that both LoRAs have, by full name, on the components' device."""
    linears = {UNET + name for name, module in components.unet.named_modules() if isinstance(module, nn.Linear)}
    names = [name for name in content.layers if name in style.layers and name in linears]
    pairs = {name: [lora.layers[name].load().down for lora in (content, style)] for name in names}
    return {name: torch.from_numpy(np.concatenate(pair)).to(components.device) for name, pair in pairs.items()}


def text_grams(downs: Mapping[str, Float[Tensor, "r inp"]], condition: Condition) -> Grams:
    """Return the matrices of cross-attention's to_k and to_v, from the encoded prompts of the content and the style."""
    names = [name for name in downs if name.endswith(("attn2.to_k", "attn2.to_v"))]
    sums = [{name: _Sum(downs[name]) for name in names} for _ in condition.embeds]
    for found, states in zip(sums, condition.embeds, strict=True):
        for gram in found.values():
            gram.add(states)
    return _means(*sums)


@torch.no_grad()
def pass_grams(
    components: Components,
    loras: tuple[LoRA, LoRA],
    downs: Mapping[str, Float[Tensor, "r inp"]],
    condition: Condition,
    on_pass: Callable[[int, int], None] | None = None,
) -> Grams:
    """Return the matrices of every layer in `downs`, from one pass a LoRA with it on, at the step of pure noise."""
    side = components.resolution // latent_scale(components.vae)
    shape = (1, components.unet.config.in_channels, side, side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(components.device)
    last = torch.tensor([components.noise.config.num_train_timesteps - 1], device=components.device)
    sums: list[dict[str, _Sum]] = []
    for number, lora in enumerate(loras):
        layers = {name: layer for name, layer in lora.layers.items() if name.startswith(UNET)}
        found = {name: _Sum(down) for name, down in downs.items()}
        with fused(components.unet, replace(lora, layers=layers)), _watching(components.unet, found):
            predict(components.unet, noise, last, condition.take(torch.tensor([number])))
        sums.append(found)
        if on_pass is not None:
            on_pass(number + 1, len(loras))
    return _means(*sums)


class _Sum:
    """Σ z·zᵀ of a layer's tokens, z = down·x, and their number: inputs of a large base are too large to keep."""

    def __init__(self, down: Float[Tensor, "r inp"]) -> None:
        self.down, self.tokens = down, 0
        self.gram = torch.zeros(len(down), len(down), device=down.device)

    def add(self, inputs: Float[Tensor, "*b tokens inp"]) -> None:
        z = self.down @ inputs.detach().reshape(-1, inputs.shape[-1]).float().mT
        self.gram += z @ z.mT
        self.tokens += z.shape[1]


@contextmanager
def _watching(unet: nn.Module, sums: Mapping[str, _Sum]) -> Iterator[None]:
    """Add up what the named linears get while the context lasts."""
    modules = dict(unet.named_modules())
    with ExitStack() as stack:
        for name, found in sums.items():
            hook = partial(_seen, found)
            stack.callback(modules[name.removeprefix(UNET)].register_forward_pre_hook(hook).remove)
        yield


def _seen(found: _Sum, _module: nn.Module, given: tuple[Tensor, ...]) -> None:
    found.add(given[0])


def _means(content: Mapping[str, _Sum], style: Mapping[str, _Sum]) -> Grams:
    """Return each LoRA's sums, divided by the tokens of both."""
    pairs = {name: (found, style[name]) for name, found in content.items()}
    return {
        name: torch.stack([found.gram for found in pair]).cpu().double().numpy() / sum(found.tokens for found in pair)
        for name, pair in pairs.items()
    }
