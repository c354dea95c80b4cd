"""What every component of a bundle goes through: its fp32 reference, and its memory given back."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.bundle import NOT_RUN, record_parity, write_component
from export.components.unet import AdaptedUNet, unet_graph
from export.golden import computing_in_fp32
from export.graph import Graph, ImageSize
from export.targets import find_target
from lorarar.base.sources import open_unet
from lorarar.layout import StackSize
from lorarar.toolchains import quiet_toolchains
from runtime_py.check import CheckRow
from runtime_py.parity import Tolerance


def test_weights_are_given_back_quantised_ones_too() -> None:
    with quiet_toolchains():
        from torchao.quantization import Int8DynamicActivationIntxWeightConfig, PerAxis, quantize_

        network = nn.Sequential(nn.Linear(64, 64), nn.Conv2d(3, 3, 1))
        config = Int8DynamicActivationIntxWeightConfig(torch.int8, PerAxis(0))
        quantize_(network, config, lambda layer, _: type(layer) is nn.Linear)
    assert type(network[0].weight) is not nn.Parameter
    Graph("net", network, {}, {}, {}).give_back()  # the caller's
    assert {value.device.type for value in network.parameters()} == {"cpu"}
    Graph("net", network, {}, {}, {}, owned=True).give_back()
    assert {value.device.type for value in network.parameters()} == {"meta"}


def test_the_reference_widens_weights_of_half_precision(shallow_pipeline: Path) -> None:
    half = open_unet(str(shallow_pipeline), untrained=False, dtype=torch.float16)[0].eval()
    wide = copy.deepcopy(half).float()
    inputs = {
        "sample": torch.randn(1, 4, 8, 8),
        "timestep_sinusoids": torch.rand(1, half.config.block_out_channels[0]),
        "encoder_hidden_states": torch.randn(1, 77, half.config.cross_attention_dim),
        "text_embeds": torch.randn(1, 48),
        "size_sinusoids": torch.rand(1, 6 * half.config.addition_time_embed_dim),
    }
    module = AdaptedUNet(half, None)
    with torch.inference_mode(), computing_in_fp32(module):
        have = module(**inputs)["noise_pred"]
    assert have.dtype == torch.float32
    np.testing.assert_allclose(have, AdaptedUNet(wide, None)(**inputs)["noise_pred"].detach(), atol=1e-6)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}


@pytest.mark.parametrize("target", ["onnx", "coreml", "coreai"])
def test_no_weight_outlives_its_conversion(target: str, shallow_pipeline: Path, tmp_path: Path) -> None:
    """At full size what the converters keep is gigabytes that the check needs."""
    unet = open_unet(str(shallow_pipeline), untrained=False)[0].eval().requires_grad_(False)
    alive = [weakref.ref(value.untyped_storage()) for value in unet.parameters() if value.numel() > 1000]
    graph = unet_graph(unet, None, StackSize(2, 8), ImageSize(64, 8, 1))
    with quiet_toolchains():
        write_component(tmp_path, graph, find_target(target), "fp32", lambda _: None)
    assert len(alive) > 10
    assert not [reference for reference in alive if reference() is not None]


def test_the_manifest_records_what_the_check_found() -> None:
    """Of a component the first runtime's row, which is nearest to a device, and nothing of one that was not checked."""
    allowed = Tolerance(1.0, 1.0)
    rows = [
        CheckRow("unet", "native", "1", "passed", "", (), allowed),
        CheckRow("unet", "emulated", "2", "passed", "", (), allowed),
        CheckRow("pipeline", "whole", "3", "passed", "", (), allowed),
    ]
    golden: dict[str, Any] = {"prompt": "a"}
    manifest: dict[str, Any] = {"components": {"unet": {}, "hypernet": {}}, "pipeline": {"golden": golden}}
    record_parity(manifest, rows)
    assert manifest["components"]["unet"]["parity"]["runtime"] == "native"
    assert manifest["components"]["hypernet"]["parity"] == NOT_RUN
    assert golden.pop("parity")["runtime"] == "whole" and golden == {"prompt": "a"}
    record_parity(manifest, [])
    assert manifest["components"]["unet"]["parity"] == manifest["pipeline"]["golden"]["parity"] == NOT_RUN
