"""The merger's graph: two adapters in, the merged adapter of rank r_c + r_s and the coefficients out (Eq. 2).

up_m = [up_c, up_s], down_m = [down_c·diag(m_c); down_s·diag(m_s)] is the merge, exactly, so no ΔW is ever formed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lorarar.errors import InputError
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import PAPER_LEARNED, ROLES, SCALES, Layout
from lorarar.merging.types import RULES


class Merger(nn.Module):
    """The module that is exported: `input_shapes` in, `output_shapes` out (both of `lorarar.layout`).

    The scales multiply the predicted coefficients, so `coefficients_*` are the ones applied and 1 is the paper.
    `at_once` and `form` are passed to the hypernetwork; they choose what a runtime multiplies best. Raises InputError
    for a hypernetwork of other layers than the paper's q and out, whose coefficients this graph has no outputs for.
    """

    def __init__(self, hypernet: Hypernetwork, layout: Layout, at_once: int | None = None, form: str = "plain") -> None:
        super().__init__()
        if hypernet.config.learned != PAPER_LEARNED:
            raise InputError(
                f"this hypernetwork predicts {','.join(hypernet.config.learned)}; only q,out can be exported: "
                "train one with `learned` q,out, or merge files with  lorarar merge"
            )
        self.hypernet = hypernet
        self.layout = layout
        self.at_once = at_once
        self.form = form

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Return the merged adapter and the coefficients, by name."""
        scales = torch.cat([tensors[name].reshape(1) for name in SCALES])
        own = self.hypernet.output.weight.dtype  # which may be fp32 where the adapters are in fp16
        adapter: dict[str, Tensor] = {}
        coefficients: dict[str, Tensor] = {}
        for group in self.layout.groups:
            factors = [tensors[f"{role}_{group.name}_{end}"] for role in ROLES for end in ("down", "up")]
            content_down, content_up, style_down, style_up = factors
            if group.part == "qo":
                same = [tensor if tensor.dtype == own else tensor.to(own) for tensor in factors]
                pair = self.hypernet(*same, self.at_once, self.form).to(scales.dtype) * scales[:, None]
                coefficients[f"coefficients_{group.name}"] = pair
            else:
                pair = (RULES[self.hypernet.config.kv_rule] * scales).reshape(1, 2, 1)
            adapter[f"adapter_{group.name}_down"] = scale_columns(content_down, style_down, pair)
            adapter[f"adapter_{group.name}_up"] = torch.cat([content_up, style_up], dim=2)
        return adapter | coefficients


def scale_columns(
    content_down: Float[Tensor, "n content_rank inp"],
    style_down: Float[Tensor, "n style_rank inp"],
    pair: Float[Tensor, "..."],
) -> Float[Tensor, "n merged_rank inp"]:
    """Return [down_c·diag(m_c); down_s·diag(m_s)]; `pair` is (n, 2, in), or (1, 2, 1) for one pair everywhere."""
    m_c, m_s = pair[:, 0:1], pair[:, 1:2]
    if torch.is_grad_enabled() or torch.compiler.is_exporting():
        return torch.cat([content_down * m_c, style_down * m_s], dim=1)
    # Multiplied straight into the result: `cat` would write 371 MB of SDXL at rank 64 twice (319 ms against 220).
    rank = content_down.shape[1]
    merged = content_down.new_empty(len(content_down), rank + style_down.shape[1], content_down.shape[2])
    torch.mul(content_down, m_c, out=merged[:, :rank])
    torch.mul(style_down, m_s, out=merged[:, rank:])
    return merged
