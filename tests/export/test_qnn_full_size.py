"""KOALA-700M on Snapdragon's NPU (make test-full): the whole UNet is compiled, and one of its blocks is emulated."""

from __future__ import annotations

import json
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from tiny_world import soc_of
from torch import Tensor, nn

from export import unet
from export.bundle import make_manifest, write_component, write_manifest
from export.components.adapted import Adapters
from export.graph import Graph, golden_roles
from export.options import HypernetOptions
from export.rewrites import rewrite_for
from export.targets import find_target, qnn_converter
from lorarar.layout import ROLES, Layout, StackSize, adapter_inputs
from runtime_py.bundle import Bundle
from runtime_py.check import check_component

pytestmark = pytest.mark.full

SECONDS, GB = 120, 8.0  # of compiling KOALA-700M's UNet for the 8 Gen 3
WIDTH, STATES, HEADS, TOKENS = 1280, 2048, 20, 256  # of a block of KOALA-700M's middle, for images of 512 pixels
STACK = StackSize(2, 128)


class Block(nn.Module):
    """One transformer block of KOALA's widest, with inputs for LoRAs of all its linears."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers.models.attention import BasicTransformerBlock

        self.block = BasicTransformerBlock(WIDTH, HEADS, WIDTH // HEADS, cross_attention_dim=STATES)
        linears = [
            (f"block.{name}", module.in_features, module.out_features)
            for name, module in self.block.named_modules()
            if isinstance(module, nn.Linear)
        ]
        self.layout = Layout.from_linears("block", linears, "transformer")
        self.adapters = Adapters(self, self.layout.groups, "matmul")

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor, **tensors: Tensor) -> dict[str, Tensor]:
        self.adapters.put(tensors)
        hidden = self.block(sample, encoder_hidden_states=encoder_hidden_states)
        self.adapters.clear()
        return {"noise_pred": hidden}


def test_a_block_of_koala_s_is_emulated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, target = Block().eval(), find_target("qnn").compiled_for(soc_of("qnn"))
    inputs = {"sample": (1, TOKENS, WIDTH), "encoder_hidden_states": (1, 77, STATES)}
    inputs |= adapter_inputs(module.layout.groups, STACK.loras, 1)
    outputs = {"noise_pred": (1, TOKENS, WIDTH)}
    golden = {ROLES: golden_roles(STACK)}
    graph = Graph("unet", module, inputs, outputs, STACK.named, {}, golden, owned=True)
    entry = write_component(tmp_path, graph, target, "fp16", lambda _: None, lambda: rewrite_for(target, module.block))
    options = HypernetOptions("qnn", "fp16", 64, soc=soc_of("qnn"))
    write_manifest(tmp_path, make_manifest(options, module.layout, {"unet": entry}))
    (row,) = check_component(Bundle.open(tmp_path), "unet")
    assert row.status == "passed", row.reason
    assert row.delta is not None and abs(row.delta.gain - 1) < 0.01


def test_the_unet_of_koala_compiles_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compile_graph, seconds = qnn_converter._compile, []

    def timed(*given: object) -> None:
        start = time.perf_counter()
        compile_graph(*given)
        seconds.append(time.perf_counter() - start)

    monkeypatch.setattr(qnn_converter, "_compile", timed)
    out = tmp_path / "bundle"
    unet("koala-700m", target="qnn", soc="sm8650", untrained=True, rank=64, resolution=512, unchecked=True, out=out)
    entry = json.loads((out / "manifest.json").read_text())["components"]["unet"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    shutil.rmtree(out)  # gigabytes that pytest would keep
    with capsys.disabled():
        print(f"\nKOALA-700M for the 8 Gen 3: {entry['bytes'] / 1e6:.0f} MB in {seconds[0]:.0f} s, peak {peak:.1f} GB")
    assert entry["parity"]["status"] == "not_run"
    assert 1.5e9 < entry["bytes"] < 2e9, "over 2 GB, a context must be cut"
    assert seconds[0] <= SECONDS and peak <= GB


def test_the_block_says_what_it_is() -> None:
    """That the block above is one of KOALA's, by the layout of the real UNet."""
    from lorarar.base.names import load_layout

    real = {
        (group.part, group.in_features, group.out_features) for group in load_layout("koala-700m", "transformer").groups
    }
    ours = {(group.part, group.in_features, group.out_features) for group in Block().layout.groups}
    assert ours <= real
