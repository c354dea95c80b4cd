"""The hypernetwork's graph: a stack of LoRAs and its roles in, unit coefficients out (the m of the paper's Eq. 2).

W·[ΔW_c; ΔW_s] = (W_c·up ⊙ roles_c + W_s·up ⊙ roles_s)·down on the stack's factors, so no ΔW is formed, and the two
LoRAs may have any ranks and any rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.hypernet.network import Hypernetwork
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
            pair = self._predict(_as(down, own), _as(up, own), roles)
            if group.name in self.learned:
                pair = pair * self.learned[group.name] + self.ruled[group.name]
            if self.loras > 2:
                pair = F.pad(pair, (0, 0, 0, self.loras - 2), value=1.0)
            found[group.coefficients] = _as(pair, down.dtype)
        return found

    def _predict(
        self, down: Float[Tensor, "n rank inp"], up: Float[Tensor, "n out rank"], roles: Float[Tensor, "rank loras"]
    ) -> Float[Tensor, "n 2 inp"]:
        layer, output, width = self.hypernet.input_layer(up.shape[1]), self.hypernet.output, up.shape[1]
        content, style = layer.weight[:, :width], layer.weight[:, width:]
        if self.form == "transposed":
            turned = up.transpose(1, 2)
            projected = F.linear(turned, content) * roles[:, :1] + F.linear(turned, style) * roles[:, 1:2]
            hidden = torch.relu(torch.bmm(down.transpose(1, 2), projected) + layer.bias)
            return output(hidden).transpose(1, 2)
        both = torch.matmul(torch.cat([content, style]), up)
        share, other = both.split(len(content), dim=1)
        hidden = torch.bmm(share * roles[:, 0] + other * roles[:, 1], down) + layer.bias[:, None]
        return torch.matmul(output.weight, torch.relu(hidden)) + output.bias[:, None]


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a type, without a node in the graph where it has it."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _learned_rows(group: Group, kinds: tuple[str, ...]) -> Float[Tensor, "n 1 1"]:
    """Mark the layers of the learned kinds in a group with 1, the others with 0."""
    return torch.tensor([float(kind_of(module) in kinds) for module in group.modules]).reshape(-1, 1, 1)
