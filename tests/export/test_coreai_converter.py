"""What Core AI's converter does beside converting: weights of few bits, names, and what can go wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shared_bundles import require_target
from torch import Tensor, nn

from export.graph import Graph
from export.targets import find_target
from export.targets.target import Convert
from lorarar.errors import InputError


@pytest.fixture(scope="module")
def convert() -> Convert:
    require_target("coreai")
    return find_target("coreai").load_converter()


class Net(nn.Module):
    """Linears and a convolution, of which one linear is named as decisive ones are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unet = nn.ModuleDict({"time_embedding": nn.Linear(64, 64, bias=False)})
        self.linear, self.conv = nn.Linear(64, 64, bias=False), nn.Conv2d(64, 64, 1, bias=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.conv((self.linear(x) + self.unet["time_embedding"](x)).transpose(1, 2)[..., None])}


def net() -> Graph:
    return Graph("net", Net(), {"x": (1, 8, 64)}, {"y": (1, 64, 8, 1)}, {}, owned=True)


def constants(asset: Path) -> dict[str, int]:
    """The constants of a program by their types, as its text has them."""
    from coreai.authoring import AIModelAsset

    text, found = str(AIModelAsset.load(asset).program._module._mlir_module), {}
    for line in text.splitlines():
        if "coreai.constant" in line and "64x64" in line:
            kind = line.rpartition("tensor<")[2].rpartition("x")[2].partition(">")[0]
            found[kind] = found.get(kind, 0) + 1
    return found


def test_the_decisive_weights_keep_their_bits(convert: Convert, tmp_path: Path) -> None:
    convert(net(), "fp16", tmp_path / "half.aimodel")
    assert constants(tmp_path / "half.aimodel") == {"f16": 3}
    for dtype in (torch.float32, torch.bfloat16):
        graph = net()
        graph.module.to(dtype)
        convert(graph, "w8", tmp_path / f"{dtype}.aimodel")
        assert constants(tmp_path / f"{dtype}.aimodel") == {"f16": 1, "si8": 2}


def test_nothing_of_this_machine_and_no_date_is_in_an_asset(convert: Convert, tmp_path: Path) -> None:
    convert(net(), "fp16", tmp_path / "net.aimodel")
    for file in (tmp_path / "net.aimodel").iterdir():
        data = file.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in data and b"creationDate" not in data


def test_palettes_without_a_compiler_are_refused(
    convert: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """coreai-opt itself would say nothing and leave the weights as they are."""
    from export.targets import coreai_converter

    def missing(*_: object) -> None:
        raise RuntimeError("Error building extension '_core'\nmuch more")

    monkeypatch.setattr(coreai_converter.kmeans, "cluster", missing)
    with pytest.raises(InputError, match=r"w4 need a C\+\+ compiler.*_core' much more\): install g\+\+, or take w8"):
        convert(net(), "w4", tmp_path / "net.aimodel")


def test_weights_are_told_apart_whichever_way_they_are_turned(convert: Convert) -> None:
    from export.targets.coreai_converter import _print_of

    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    assert _print_of(weight) == _print_of(weight.T) == _print_of(weight.astype(np.float16))
    assert _print_of(weight) != _print_of(-weight)
