"""LoRAs on a UNet: beside its weights for training (no ΔW is formed), or added into them for generation.

`attached` adds up(down x) to the outputs of linears. Merging coefficients belong in `down`: down·diag(m) is the merge
(Eq. 2), since up(down·diag(m)) x = up(down (m ⊙ x)). Folding m into `down` keeps rank × in numbers a layer for the
backward pass. Scaling x would keep a second copy of every input: for SDXL at 1024 pixels (1024 to 4096 tokens against
ranks of 64) that is over ten times as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.errors import InputError, first_of
from lorarar.layout import UNET
from lorarar.lora import LoRA, LoraLayer


@dataclass(frozen=True)
class Factors:
    """The factors of one layer for `g` equal parts of a batch, in order: one LoRA for all (g = 1), or one for each."""

    down: Float[Tensor, "g rank inp"]
    up: Float[Tensor, "g out rank"]


def factors_by_part(lora: LoRA, parts: Sequence[bool], device: torch.device) -> dict[str, Factors]:
    """Return a LoRA's factors by full module name for equal parts of a batch: its own where it is on, else zeros."""
    is_on = torch.tensor(parts, dtype=torch.float32, device=device)[:, None, None]
    found = {}
    for name, layer in lora.layers.items():
        loaded = layer.load()
        down, up = (torch.from_numpy(factor).to(device) for factor in (loaded.down, loaded.up))
        found[name] = Factors(down * is_on, up.expand(len(parts), -1, -1))
    return found


@contextmanager
def attached(unet: nn.Module, factors: Mapping[str, Factors]) -> Iterator[None]:
    """Let linears of the UNet add up(down x), by full module name (`unet.…to_q`).

    Differentiable in the factors. Works under autocast and with gradient checkpointing, where the backward pass
    computes the layers again and so has to run inside the context too. Contexts can be nested: their updates add up.
    Raises InputError for a name that is no linear of the UNet, a shape that is not the layer's, or parts that don't
    divide a batch.
    """
    linears = _modules(unet, factors, nn.Linear, "the LoRA")
    for name, linear in linears.items():
        down, up = factors[name].down, factors[name].up
        if (up.shape[1], down.shape[2]) != (linear.out_features, linear.in_features) or len(up) != len(down):
            shape = f"{up.shape[1]}×{down.shape[2]} in {len(up)} and {len(down)} parts"
            raise InputError(f"{name} is {linear.out_features}×{linear.in_features}, the LoRA's {shape}")
    with ExitStack() as stack:
        for name, linear in linears.items():
            handle = linear.register_forward_hook(partial(_add_lora, name, factors[name]))
            stack.callback(handle.remove)
        yield


@contextmanager
def fused(unet: nn.Module, lora: LoRA) -> Iterator[None]:
    """Add a LoRA's ΔW into the weights, and put the old weights back on leaving, bit for bit.

    The sum is taken in fp32 or better and rounded once to the weights' dtype. Linear and convolution layers. Raises
    InputError for a layer that is not in the UNet or has another shape; the UNet is then as it was.
    """
    modules = fitting_modules(unet, lora)
    old: dict[str, Tensor] = {}
    try:
        for name, module in modules.items():
            old[name] = module.weight.detach().clone()
            _fuse(module, lora.layers[name])
        yield
    finally:
        for name, weight in old.items():
            modules[name].weight.data.copy_(weight)


def fuse(unet: nn.Module, lora: LoRA) -> None:
    """Add a LoRA's ΔW into the weights for good, as `fused` does for a while. No old weight is kept."""
    for name, module in fitting_modules(unet, lora).items():
        _fuse(module, lora.layers[name])


def _fuse(module: Any, layer: LoraLayer) -> None:
    weight: Tensor = module.weight
    delta = torch.from_numpy(layer.delta()).to(weight.device)
    weight.data.copy_(delta + weight.detach().to(torch.promote_types(weight.dtype, torch.float32)))


def fitting_modules(unet: nn.Module, lora: LoRA, kind: type[nn.Module] = nn.Module) -> dict[str, Any]:
    """Return by name the UNet's modules, of a kind, that a LoRA's layers belong to.

    Raises InputError for layers that are no such modules, such as a text encoder's, and for one of another shape.
    """
    modules = _modules(unet, lora.layers, kind, lora.source)
    for name, module in modules.items():
        weight, want = getattr(module, "weight", None), lora.layers[name].weight_shape
        if weight is None or tuple(weight.shape) != want:
            have = None if weight is None else tuple(weight.shape)
            raise InputError(f"{lora.source}: {name} is for a weight of shape {want}, this UNet's is {have}")
    return modules


def _modules(unet: nn.Module, names: Mapping[str, Any], kind: type[nn.Module], source: str) -> dict[str, Any]:
    """Return the UNet's modules of a kind by full name. InputError for names that are none."""
    modules = {UNET + name: module for name, module in unet.named_modules() if isinstance(module, kind)}
    strangers = [name for name in names if name not in modules]
    if strangers:
        what = "linears" if kind is nn.Linear else "layers"
        raise InputError(
            f"{source}: {len(strangers)} of its {len(names)} layers are no {what} of this UNet "
            f"({first_of(strangers)}); give a LoRA that was made for this base, without text encoder layers"
        )
    return {name: modules[name] for name in names}


def _add_lora(name: str, factors: Factors, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the linear's output plus the LoRA's; a forward hook once name and factors are bound."""
    (x,) = args
    parts = len(factors.down)
    if len(x) % parts:
        raise InputError(f"{name}: a batch of {len(x)} can't be shared equally by {parts} LoRAs")
    # One reshape serves any number of LoRAs: consecutive rows of the batch, with all their tokens, share a LoRA.
    rows = x.reshape(parts, -1, x.shape[-1])
    down, up = factors.down.to(x.dtype), factors.up.to(x.dtype)
    added = torch.bmm(torch.bmm(rows, down.transpose(1, 2)), up.transpose(1, 2))
    return output + added.reshape(output.shape).to(output.dtype)
