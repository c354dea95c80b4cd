"""The merger: content adapter + style adapter → merged adapter of rank r_c + r_s, and the coefficients (Eq. 2).

up_m = [up_c, up_s], down_m = [down_c·diag(m_c); down_s·diag(m_s)] is the merge, exactly, so no ΔW is ever formed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.hypernet import KV_RULES, Hypernetwork
from lorarar.layout import Layout

ROLES = ("content", "style")
SCALES = ("content_scale", "style_scale")


def input_names(layout: Layout) -> list[str]:
    """The merger's inputs in the order of every artifact."""
    tensors = [f"{role}_{group.name}_{end}" for group in layout.groups for role in ROLES for end in ("down", "up")]
    return [*tensors, *SCALES]


def output_names(layout: Layout) -> list[str]:
    """The merger's outputs in the order of every artifact."""
    adapters = [f"adapter_{group.name}_{end}" for group in layout.groups for end in ("down", "up")]
    return [*adapters, *(f"coefficients_{group.name}" for group in layout.part("qo"))]


class Merger(nn.Module):
    """Named tensors in (`input_names`), named tensors out (`output_names`).

    The scales multiply the predicted coefficients, so `coefficients_*` are the ones applied and 1 is the paper.
    `at_once` is passed to the hypernetwork: the layer count a runtime multiplies best.
    """

    def __init__(self, hypernet: Hypernetwork, layout: Layout, at_once: int | None = None) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.layout = layout
        self.at_once = at_once

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        # Never 0-d: Core ML has no scalar inputs, and its converter gives a stack of scalars one axis too many.
        content_scale, style_scale = (tensors[name].reshape(1) for name in SCALES)
        scales = torch.cat([content_scale, style_scale]).reshape(2, 1)
        kv = KV_RULES[self.hypernet.config.kv_rule]
        adapter: dict[str, Tensor] = {}
        coefficients: dict[str, Tensor] = {}
        for group in self.layout.groups:
            factors = [tensors[f"{role}_{group.name}_{end}"] for role in ROLES for end in ("down", "up")]
            content_down, content_up, style_down, style_up = factors
            if group.part == "qo":
                predicted = self.hypernet(content_down, content_up, style_down, style_up, self.at_once)
                pair = predicted * scales
                coefficients[f"coefficients_{group.name}"] = pair
                m_c, m_s = pair[:, 0:1], pair[:, 1:2]
            else:
                m_c, m_s = kv * content_scale, kv * style_scale
            adapter[f"adapter_{group.name}_down"] = scale_columns(content_down, style_down, m_c, m_s)
            adapter[f"adapter_{group.name}_up"] = torch.cat([content_up, style_up], dim=2)
        return adapter | coefficients


def scale_columns(
    content_down: Float[Tensor, "n content_rank inp"],
    style_down: Float[Tensor, "n style_rank inp"],
    m_c: Float[Tensor, "..."],
    m_s: Float[Tensor, "..."],
) -> Float[Tensor, "n merged_rank inp"]:
    """[down_c·diag(m_c); down_s·diag(m_s)], for coefficients (n, 1, in) or scalars."""
    return torch.cat([content_down * m_c, style_down * m_s], dim=1)
