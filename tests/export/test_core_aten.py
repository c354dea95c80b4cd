"""A traced program in the operations of Core AI's converter computes what it computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.targets.core_aten import _RULES, to_core_aten


class EveryOperation(nn.Module):
    """Each operation that there is a rule for, with arguments that are not its defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bare = nn.Linear(8, 6), nn.Linear(6, 4, bias=False)
        self.strided = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2)
        self.plain = nn.Conv2d(6, 6, 1, bias=False)
        self.group, self.layer = nn.GroupNorm(3, 6, eps=1e-3), nn.LayerNorm((2, 6), eps=1e-2)
        self.dropout = nn.Dropout(0.5)
        for norm in (self.group, self.layer):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, image: Tensor, tokens: Tensor, few: Tensor) -> dict[str, Tensor]:
        convolved = self.group(self.plain(self.strided(image)))
        rows = self.dropout(self.linear(tokens))
        first, second, third = rows.chunk(3, dim=-1)
        parts = rows.split(4, dim=1)
        weights = F.softmax(torch.matmul(rows, rows.transpose(-1, 1)), dim=1)
        positions = torch.arange(5) + torch.arange(2, 7)
        return {
            "convolved": convolved.flatten(2).unflatten(-1, (-1, 3)).reshape(-1, 6),
            "joined": torch.concat([first * second, third], dim=0),
            "normal": self.layer(rows[:, :2]) + self.bare(rows[:, 1:2]).sum(),
            "part": parts[1].transpose(1, 2).contiguous(),
            "mixed": torch.matmul(weights, few),
            "positions": positions.to(torch.float32),
            "padded": F.pad(F.pad(few, (1, 0)), (0, 0, 0, 2), value=3.0),
        }


def test_every_rule_keeps_the_function() -> None:
    torch.manual_seed(0)
    module = EveryOperation().eval()
    given = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 8), torch.randn(5, 3)
    program = torch.export.export(module, given)
    kinds = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert kinds >= set(_RULES), "an operation of a rule is not in the module"
    with torch.inference_mode():
        want = module(*given)
        to_core_aten(program)
        have = program.module()(*given)
    assert not {node.target for node in program.graph.nodes} & set(_RULES)
    for name, value in want.items():
        torch.testing.assert_close(have[name], value, rtol=1e-5, atol=1e-5)


def test_an_operation_without_a_rule_stays() -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(x, 0).contiguous()

    program = torch.export.export(Other(), (torch.ones(3),))
    to_core_aten(program)
    assert torch.ops.aten.cumsum.default in {node.target for node in program.graph.nodes}
    torch.testing.assert_close(program.module()(torch.ones(3)), torch.tensor([1.0, 2.0, 3.0]))
