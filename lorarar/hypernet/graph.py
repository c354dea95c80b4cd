"""Graphs that give coefficients: a stack of LoRAs and its roles in, unit coefficients out (the m of the paper's Eq. 2).

W·[ΔW_c; ΔW_s] = (W_c·up ⊙ roles_c + W_s·up ⊙ roles_s)·down on the stack's factors, so no ΔW is formed, and the two
LoRAs may have any ranks and any rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.hypernet.checkpoints import Predictor
from lorarar.hypernet.network import ConstantCoefficients, Hypernetwork
from lorarar.layout import ROLES, Group, Layout, kind_of
from lorarar.merging.types import RULES
from lorarar.settings import check_choice

FORMS = {
    "plain": "one product for both halves of the input layer, one with down",
    "transposed": "downᵀ·(upᵀ Wᵀ), with static weights on the right, which XNNPACK takes whole",
}
"""Two ways to compute the same coefficients, each the fastest in some runtime."""


class CoefficientGraph(nn.Module):
    """The module that is exported.

    Inputs: the factors of the groups that hold learned kinds, and `roles` (R, K). Outputs: `coefficients_{group}`
    (N, K, in) of these groups, for strengths of 1. The hypernetwork blends roles 0 and 1; other roles get 1. Layers of
    kinds that it did not learn get the rule's.
    """

    def __init__(self, hypernet: Hypernetwork, layout: Layout, loras: int = 2, form: str = "plain") -> None:
        super().__init__()
        check_choice(FORMS, form=form)
        self.hypernet, self.loras, self.form = hypernet, loras, form
        self.groups = layout.with_kinds(hypernet.config.learned)
        self.biases = nn.ParameterDict({group.name: nn.Buffer(_bias(hypernet, group)) for group in self.groups})
        offsets = self.groups if len(hypernet.columns) else ()
        self.offsets = nn.ParameterDict({group.name: nn.Buffer(_offsets(hypernet, group)) for group in offsets})
        rule = RULES[hypernet.config.kv_rule]
        learned = {group.name: _learned_rows(group, hypernet.config.learned) for group in self.groups}
        self.learned = nn.ParameterDict({name: nn.Buffer(rows) for name, rows in learned.items() if not rows.all()})
        self.ruled = nn.ParameterDict({name: nn.Buffer((1 - rows) * rule) for name, rows in self.learned.items()})

    def forward(self, **tensors: Tensor) -> Mapping[str, Tensor]:
        """Return the coefficients by name, in the type of the factors."""
        own = self.hypernet.output.weight.dtype  # which may be fp32 where the factors are fp16
        roles = _as(tensors[ROLES], own)
        found: dict[str, Tensor] = {}
        for group in self.groups:
            down, up = tensors[group.down], tensors[group.up]
            pair = self._predict(_as(down, own), _as(up, own), roles, self.biases[group.name])
            if group.name in self.offsets:
                pair = pair + self.offsets[group.name]
            if group.name in self.learned:
                pair = pair * self.learned[group.name] + self.ruled[group.name]
            found[group.coefficients] = _as(_padded(pair, self.loras), down.dtype)
        return found

    def _predict(
        self,
        down: Float[Tensor, "n rank inp"],
        up: Float[Tensor, "n out rank"],
        roles: Float[Tensor, "rank loras"],
        bias: Float[Tensor, "_ hidden 1"],
    ) -> Float[Tensor, "n 2 inp"]:
        layer, output, width = self.hypernet.input_layer(up.shape[1]), self.hypernet.output, up.shape[1]
        content, style = layer.weight[:, :width], layer.weight[:, width:]
        if self.form == "transposed":
            turned = up.transpose(1, 2)
            projected = F.linear(turned, content) * roles[:, :1] + F.linear(turned, style) * roles[:, 1:2]
            hidden = torch.relu(torch.bmm(down.transpose(1, 2), projected) + bias.transpose(1, 2))
            return output(hidden).transpose(1, 2)
        both = torch.matmul(torch.cat([content, style]), up)
        share, other = both.split(len(content), dim=1)
        hidden = torch.bmm(share * roles[:, 0] + other * roles[:, 1], down) + bias
        return torch.matmul(output.weight, torch.relu(hidden)) + output.bias[:, None]


class ConstantGraph(nn.Module):
    """The same for constant coefficients: the inputs are those of CoefficientGraph, and only their sizes matter."""

    def __init__(self, constants: ConstantCoefficients, layout: Layout, loras: int = 2) -> None:
        super().__init__()
        self.loras, self.groups = loras, layout.with_kinds(constants.config.learned)
        self.pairs = nn.ParameterDict({group.name: nn.Buffer(_constants(constants, group)) for group in self.groups})

    def forward(self, **tensors: Tensor) -> Mapping[str, Tensor]:
        """Return the coefficients by name, in the type of the factors."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            down = tensors[group.down]
            # Times 0, not of its shape: an output that no input reaches is none to a converter.
            pair = _as(self.pairs[group.name], down.dtype) + down[:, :1] * 0
            found[group.coefficients] = _padded(pair, self.loras)
        return found


def coefficient_graph(
    predictor: Predictor, layout: Layout, loras: int = 2, form: str = "plain"
) -> CoefficientGraph | ConstantGraph:
    """Make the module that gives a predictor's coefficients; `form` is a key of FORMS."""
    if isinstance(predictor, ConstantCoefficients):
        return ConstantGraph(predictor, layout, loras)
    return CoefficientGraph(predictor, layout, loras, form)


@torch.no_grad()
def _bias(hypernet: Hypernetwork, group: Group) -> Float[Tensor, "_ hidden 1"]:
    """Return the hidden layer's bias of a group's layers, one for all where that is enough.

    Layers of kinds that were not learned have no place in the network, and any bias will do. Raises InputError where
    the network is not made for the group's width or layers.
    """
    if not hypernet.config.positions:
        return hypernet.bias(group.out_features).clone()
    learned = [module for module in group.modules if kind_of(module) in hypernet.config.learned]
    known = dict(zip(learned, hypernet.bias(group.out_features, learned), strict=True))
    return torch.stack([known.get(module, known[learned[0]]) for module in group.modules])


@torch.no_grad()
def _offsets(hypernet: Hypernetwork, group: Group) -> Float[Tensor, "n 2 inp"]:
    """Return what a group's columns add to their coefficients."""
    return _of_learned(
        hypernet.columns, group, group.in_features, hypernet.config.learned, hypernet.output.bias.new_zeros(())
    )


@torch.no_grad()
def _constants(constants: ConstantCoefficients, group: Group) -> Float[Tensor, "n 2 inp_or_1"]:
    """Return the constant coefficients of a group's layers, and the rule's for kinds that were not learned.

    Columns that all have the same are one: of k, v and out of SDXL's attention 4.5 KB in the place of 6.3 MB.
    """
    rule = torch.tensor(RULES[constants.config.kv_rule])
    columns = group.in_features if len(constants.columns) else 1
    return _of_learned(constants.of, group, columns, constants.config.learned, rule)


def _of_learned(
    found: Callable[[int, list[str]], Tensor],
    group: Group,
    columns: int,
    kinds: tuple[str, ...],
    other: Float[Tensor, ""],
) -> Float[Tensor, "n 2 columns"]:
    """Return what is found for so many columns of a group's layers of some kinds, and another number for its others."""
    rows = [row for row, module in enumerate(group.modules) if kind_of(module) in kinds]
    values = other.expand(len(group.modules), 2, columns).clone()
    values[rows] = found(columns, [group.modules[row] for row in rows])
    return values


def _padded(pair: Float[Tensor, "n 2 inp"], loras: int) -> Float[Tensor, "n loras inp"]:
    """Give the LoRAs beside content and style a coefficient of 1."""
    return F.pad(pair, (0, 0, 0, loras - 2), value=1.0) if loras > 2 else pair


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a type, without a node in the graph where it has it."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _learned_rows(group: Group, kinds: tuple[str, ...]) -> Float[Tensor, "n 1 1"]:
    """Mark the layers of the learned kinds in a group with 1, the others with 0."""
    return torch.tensor([float(kind_of(module) in kinds) for module in group.modules]).reshape(-1, 1, 1)
