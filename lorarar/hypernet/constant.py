"""Constant coefficients, an ablation: one trained pair for each kind of layer, whatever the two LoRAs are.

Trained by the same loss as the hypernetwork, it shows what predicting from the LoRAs adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lorarar.errors import InputError
from lorarar.layout import PAPER_LEARNED, check_kinds
from lorarar.merging.types import RULES


@dataclass(frozen=True)
class ConstantConfig:
    """The kinds of layers that have a pair of their own, and the rule of the others."""

    kv_rule: str = "average"  # a key of RULES
    learned: tuple[str, ...] = PAPER_LEARNED

    def __post_init__(self) -> None:
        object.__setattr__(self, "learned", check_kinds(self.learned))
        if self.kv_rule not in RULES:
            raise InputError(f"unknown k/v rule {self.kv_rule!r}; valid are {', '.join(RULES)}")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ConstantConfig:
        """Make the config that a checkpoint's metadata states; KeyError, ValueError or TypeError when it is none."""
        return cls(str(data["kv_rule"]), tuple(map(str, data["learned"])))


class ConstantCoefficients(nn.Module):
    """One (m_c, m_s) for each learned kind, the same for every column, layer and pair of LoRAs."""

    def __init__(self, config: ConstantConfig | None = None) -> None:
        super().__init__()
        self.config = config or ConstantConfig()
        self.pairs = nn.ParameterDict({kind: nn.Parameter(torch.full((2,), 0.5)) for kind in self.config.learned})

    def constants(self) -> dict[str, tuple[float, float]]:
        """Return the pairs as numbers, by kind."""
        values = {kind: pair.detach().tolist() for kind, pair in self.pairs.items()}
        return {kind: (content, style) for kind, (content, style) in values.items()}
