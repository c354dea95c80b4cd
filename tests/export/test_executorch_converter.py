"""What a conversion to ExecuTorch leaves behind: nothing on the caller's module, and nothing in the process."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from export.bundle import write_component
from export.components.text_encoders import text_graph
from export.graph import Graph
from export.targets import find_target
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline
from lorarar.layout import StackSize
from lorarar.toolchains import quiet_toolchains

with quiet_toolchains():
    from executorch.backends.xnnpack import xnnpack_preprocess
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
    from executorch.exir._serialize._named_data_store import NamedDataStore

    from export.targets import executorch_weights
    from export.targets.executorch_converter import convert


class Net(nn.Module):
    """One linear with names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.linear(x)}


def net_graph(net: nn.Module) -> Graph:
    return Graph("net", net, {"x": (1, 64)}, {"y": (1, 8)}, {}, owned=True)


def test_a_module_is_copied_as_before(tmp_path: Path) -> None:
    net, recompile = Net(), GraphModule.recompile
    convert(net_graph(net), "fp32", tmp_path / "net.pte")
    other = copy.deepcopy(net)
    other.linear.weight.data.zero_()
    assert net.linear.weight.abs().max() > 0
    assert GraphModule.recompile is recompile and gc.isenabled()
    assert "copy_exported_program_for_preprocess" not in vars(XnnpackBackend)
    assert xnnpack_preprocess.NamedDataStore is NamedDataStore


@pytest.mark.parametrize("precision", ["fp32", "w8", "w4"])
def test_constants_in_files_are_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    net = Net()
    programs = []
    for large in (2**40, 1):  # none in a file, all in files
        monkeypatch.setattr(executorch_weights, "LARGE", large)
        convert(net_graph(copy.deepcopy(net)), precision, tmp_path / "net.pte")
        assert [path.name for path in tmp_path.iterdir()] == ["net.pte"]
        programs.append((tmp_path / "net.pte").read_bytes())
    assert programs[0] == programs[1]


def test_a_conversion_that_fails_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does one that was killed keep its files from the next."""
    (tmp_path / "net.pte.constants").mkdir()
    (tmp_path / "net.pte.constants" / "0").write_bytes(b"of a killed one")

    def full(self: Path, data: bytes) -> int:
        raise OSError("no space is left")

    monkeypatch.setattr(executorch_weights, "LARGE", 1)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        convert(net_graph(Net()), "fp32", tmp_path / "net.pte")
    assert list(tmp_path.iterdir()) == []


def test_garbage_that_is_not_collected_stays_so(tmp_path: Path) -> None:
    gc.disable()
    try:
        convert(net_graph(Net()), "fp32", tmp_path / "net.pte")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_network_that_is_not_given_away_keeps_its_weights(tiny_pipeline: Path, tmp_path: Path) -> None:
    model = open_pipeline(str(tiny_pipeline), False, torch.float32).text_encoder.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = text_graph("text_encoder", model, [0] * 77, load_layout(str(tiny_pipeline)), StackSize(2, 6))
    write_component(tmp_path, graph, find_target("executorch"), "w8", lambda _: None)
    assert {type(value) for value in model.parameters()} == {nn.Parameter}
    assert all(value.requires_grad for value in model.parameters())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
