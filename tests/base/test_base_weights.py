"""A base's weights by the full names that LoRAs have for its modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from lorarar.base.sources import open_pipeline
from lorarar.base.weights import base_weights
from lorarar.lora import read_lora


def test_every_linear_and_convolution_has_its_weight(tiny_pipeline: Path) -> None:
    """Names are those that reading gives kohya's layers, whatever transformers calls CLIP's modules."""
    weight, pipeline = (
        base_weights(str(tiny_pipeline)),
        open_pipeline(str(tiny_pipeline), untrained=False, dtype=torch.float32),
    )
    ones = np.ones((1, 1), np.float32)
    for name, short in (("text_encoder", "te1"), ("text_encoder_2", "te2")):
        flat = f"lora_{short}_text_model_encoder_layers_0_mlp_fc1"
        (full,) = read_lora({f"{flat}.lora_down.weight": ones, f"{flat}.lora_up.weight": ones}).layers
        have = weight(full)
        (want,) = [
            module.weight
            for own, module in getattr(pipeline, name).named_modules()
            if own.endswith("encoder.layers.0.mlp.fc1")
        ]
        assert have is not None
        np.testing.assert_array_equal(have, want.detach().float().numpy())
    kinds = {name for name, module in pipeline.unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    assert len(kinds) > 30
    assert [name for name in kinds if weight(f"unet.{name}") is None] == []
    assert weight("unet.no.such") is None and weight("text_encoder") is None
