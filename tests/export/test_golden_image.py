"""The golden image that diffusers draws of an export: the same of weights in half precision and in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from shared_bundles import RANK

from export.golden import write_golden_image
from export.graph import ImageSize
from lorarar.base.names import load_layout
from lorarar.base.sources import open_pipeline
from lorarar.layout import StackSize

SMALL = ImageSize(pixels=32, latent=8, batch=2)


def test_the_golden_image_of_weights_in_half_precision_is_that_of_the_same_weights_in_fp32(
    shallow_pipeline: Path, tmp_path: Path
) -> None:
    layout = load_layout(str(shallow_pipeline))
    pipeline = open_pipeline(str(shallow_pipeline), False, torch.float32)
    images = []
    for name, narrow in (("half", True), ("full", False)):
        unet = pipeline.unet.half() if narrow else pipeline.unet.float()
        write_golden_image(pipeline, layout, StackSize(2, 2 * RANK), SMALL, tmp_path / name, SMALL.latent)
        images.append(load_file(tmp_path / name))
        assert not any("lora" in key for key, _ in unet.named_parameters())
    assert images[0].keys() == images[1].keys()
    for key, value in images[0].items():
        np.testing.assert_array_equal(value, images[1][key], err_msg=key)
