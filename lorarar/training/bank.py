"""Pack LoRAs for training, and merge many pairs at once (Eq. 2), differentiable in the coefficients.

A pack holds, for each group of the layout, the factors of several LoRAs: down (p, n, rank, in) and up (p, n, out, rank)
for p LoRAs and the group's n layers. No ΔW is formed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lorarar.base.attach import Factors
from lorarar.errors import InputError
from lorarar.hypernet.network import ConstantCoefficients, Hypernetwork
from lorarar.layout import UNET, Group, Layout, kind_of
from lorarar.lora import LoRA
from lorarar.merging.types import RULES
from lorarar.stack import Adapter, carried, stack


@dataclass(frozen=True)
class GroupFactors:
    """The factors of p LoRAs in one group of n layers."""

    down: Float[Tensor, "p n rank inp"]
    up: Float[Tensor, "p n out rank"]


Pack = Mapping[str, GroupFactors]
"""Factors by group name."""


@dataclass(frozen=True)
class Coefficients:
    """The pair (m_c, m_s) of every column, (p, n, 2, in): `applied` by group, `learned` of the learned layers alone.

    The sizes 1 stand for any: one value for all pairs, layers or columns.
    """

    applied: Mapping[str, Float[Tensor, "_ _ 2 _"]]
    learned: tuple[Float[Tensor, "_ _ 2 _"], ...]


@dataclass(frozen=True)
class LoraBank:
    """All LoRAs of one role, in main memory: SDXL at rank 64 takes 372 MB a LoRA in fp32."""

    packed: Pack

    @classmethod
    def of(cls, loras: Sequence[LoRA], layout: Layout, rank: int, dtype: torch.dtype = torch.float32) -> LoraBank:
        """Pack LoRAs, zero-padded to `rank`, which is exact.

        Raises InputError for a LoRA without some of the layout's layers or with others, since it would be trained with
        another update than it has, and as `stack`.
        """
        tensors: dict[str, Tensor] = {}
        for place, lora in enumerate(loras):  # one at a time in memory besides the bank
            for name, array in _whole(lora, layout, rank).items():
                if name not in tensors:
                    tensors[name] = torch.empty((len(loras), *array.shape), dtype=dtype)
                tensors[name][place] = torch.from_numpy(array)
        return cls({group.name: GroupFactors(tensors[group.down], tensors[group.up]) for group in layout.groups})

    def digest(self) -> str:
        """Return a SHA-256 of every 997th number, which tells these LoRAs from others in no time."""
        found = hashlib.sha256()
        for name, factors in sorted(self.packed.items()):
            for tensor in (factors.down, factors.up):
                # A prime, so that no row or column of a factor is always stepped over.
                found.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.flatten()[::997].numpy().tobytes())
        return found.hexdigest()

    def take(self, index: Sequence[int], device: torch.device | str) -> Pack:
        """Return the LoRAs at `index` on a device, in that order."""
        rows = torch.tensor(index)
        return {
            name: GroupFactors(factors.down[rows].to(device), factors.up[rows].to(device))
            for name, factors in self.packed.items()
        }


def _whole(lora: LoRA, layout: Layout, rank: int) -> Adapter:
    packed = stack([lora], layout, rank=rank)
    modules = set(layout.modules)
    if any(name.removeprefix(UNET) not in modules for name in lora.layers):
        raise InputError(f"{carried(lora, layout).warning()}; training needs LoRAs of the attention linears alone")
    missing = [module for module in layout.modules if UNET + module not in lora.layers]
    if missing:
        raise InputError(
            f"{lora.source}: {len(missing)} of the {len(layout.modules)} attention linears of {layout.base} are "
            f"missing, such as {missing[0]}; training needs LoRAs of all of them, as `lorarar train-lora` makes"
        )
    return packed.adapter


def predict_coefficients(
    predictor: Hypernetwork | ConstantCoefficients, layout: Layout, content: Pack, style: Pack
) -> Coefficients:
    """Return the predictor's coefficients for the learned kinds of layers, and the k/v rule's for the others.

    Raises InputError for a layout without layers of the learned kinds.
    """
    applied: dict[str, Tensor] = {}
    learned: list[Tensor] = []
    for group in layout.groups:
        factors = content[group.name].down
        pairs = factors.new_full((len(factors), len(group.modules), 2, 1), RULES[predictor.config.kv_rule])
        rows = [row for row, module in enumerate(group.modules) if kind_of(module) in predictor.config.learned]
        if rows:
            found = _predicted(predictor, group, rows, content[group.name], style[group.name])
            learned.append(found)
            index = torch.tensor(rows, device=factors.device)
            pairs = pairs.expand(-1, -1, -1, group.in_features).index_copy(1, index, found)
        applied[group.name] = pairs
    if not learned:
        raise InputError(f"{layout.base} has no layers of the kinds {','.join(predictor.config.learned)} to learn")
    return Coefficients(applied, tuple(learned))


def _predicted(
    predictor: Hypernetwork | ConstantCoefficients,
    group: Group,
    rows: Sequence[int],
    content: GroupFactors,
    style: GroupFactors,
) -> Float[Tensor, "p layers 2 inp"]:
    count, whole = len(content.down), len(rows) == len(group.modules)
    # Every layer of every pair is one row of the batch that the predictor takes.
    factors = [
        (tensor if whole else tensor[:, rows]).flatten(0, 1)
        for tensor in (content.down, content.up, style.down, style.up)
    ]
    modules = [group.modules[row] for row in rows]
    return predictor(*factors, modules * count).unflatten(0, (count, len(rows)))


def column_sizes(packs: Sequence[Pack], layout: Layout, kinds: Sequence[str]) -> dict[int, float]:
    """Return the root mean square of ΔW's entries over all LoRAs of the packs, by the output width of its layers."""
    squares: dict[int, float] = {}
    entries: dict[int, int] = {}
    for group in layout.groups:
        rows = [row for row, module in enumerate(group.modules) if kind_of(module) in kinds]
        for pack in packs:
            down, up = pack[group.name].down[:, rows].double(), pack[group.name].up[:, rows].double()
            width, count = group.out_features, len(down) * len(rows) * group.out_features * group.in_features
            # ‖up·down‖² without ΔW: the trace of (upᵀ up)(down downᵀ).
            squares[width] = squares.get(width, 0.0) + float(((up.mT @ up) * (down @ down.mT)).sum())
            entries[width] = entries.get(width, 0) + count
    return {width: math.sqrt(squares[width] / count) for width, count in entries.items() if count and squares[width]}


def constant_coefficients(layout: Layout, value: float, like: Tensor) -> Coefficients:
    """Return the same coefficient everywhere: 0.5 is the average, 1 the sum. Dtype and device are those of `like`."""
    return Coefficients({group.name: like.new_full((1, 1, 2, 1), value) for group in layout.groups}, ())


def merged_factors(layout: Layout, content: Pack, style: Pack, coefficients: Coefficients) -> dict[str, Factors]:
    """Merge p pairs, by full module name: up_m = [up_c, up_s], down_m = [down_c·m_c; down_s·m_s]."""
    merged: dict[str, Factors] = {}
    for group in layout.groups:
        one, other, pair = content[group.name], style[group.name], coefficients.applied[group.name]
        down = torch.cat([one.down * pair[:, :, :1], other.down * pair[:, :, 1:]], dim=2)
        up = torch.cat([one.up, other.up], dim=3)
        merged |= _by_module(group, down, up)
    return merged


def alternating_factors(layout: Layout, content: Pack, style: Pack) -> dict[str, Factors]:
    """Return the pairs' own LoRAs by full module name, for a batch with rows content, style, content, style, …"""
    factors: dict[str, Factors] = {}
    for group in layout.groups:
        one, other = content[group.name], style[group.name]
        down = torch.stack([one.down, other.down], dim=1).flatten(0, 1)
        up = torch.stack([one.up, other.up], dim=1).flatten(0, 1)
        factors |= _by_module(group, down, up)
    return factors


def _by_module(
    group: Group, down: Float[Tensor, "g n rank inp"], up: Float[Tensor, "g n out rank"]
) -> dict[str, Factors]:
    return {UNET + module: Factors(down[:, row], up[:, row]) for row, module in enumerate(group.modules)}
