"""Weights of few bits: the first and last layers keep theirs, since all that is drawn goes through them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from shared_bundles import require_target
from torch import Tensor, nn

from export.graph import Graph
from export.targets import find_target
from runtime_py.mil import Program


class Net(nn.Module):
    """A network with the names of a UNet's first and last layers, and two layers between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = {name: nn.Conv2d(64, 64, 1, bias=False) for name in ("conv_in", "middle", "conv_out")}
        self.unet = nn.ModuleDict({**layers, "linear": nn.Linear(64, 64, bias=False)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        inner = self.unet["middle"](self.unet["conv_in"](x)).permute(0, 2, 3, 1)
        return {"y": self.unet["conv_out"](self.unet["linear"](inner).permute(0, 3, 1, 2))}


def convert(target: str, precision: str, path: Path) -> Path:
    require_target(target)
    graph = Graph("net", Net(), {"x": (1, 64, 8, 8)}, {"y": (1, 64, 8, 8)}, {}, owned=True)
    find_target(target).load_converter()(graph, precision, path)
    return path


@pytest.mark.parametrize("precision", ["w8", "w4"])
def test_onnx(tmp_path: Path, precision: str) -> None:
    model = onnx.load(str(convert("onnx", precision, tmp_path / "net.onnx")))
    weights = [item for item in model.graph.initializer if list(item.dims[:2]) == [64, 64]]
    floats = {item.name for item in weights if item.data_type == onnx.TensorProto.FLOAT}
    assert floats == {"module.unet.conv_in.weight", "module.unet.conv_out.weight"}


@pytest.mark.parametrize("precision", ["w8", "w6"])
def test_coreml(tmp_path: Path, precision: str) -> None:
    operation = {"w8": "constexpr_affine_dequantize", "w6": "constexpr_lut_to_dense"}[precision]
    program = Program.open(convert("coreml", precision, tmp_path / "net.mlpackage"))
    assert {name: count for name, count in program.op_counts().items() if "constexpr" in name} == {operation: 2}
