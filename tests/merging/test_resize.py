"""Cutting a LoRA to a rank, against the optimum of a dense SVD."""

from __future__ import annotations

import re

import numpy as np
import pytest

import lorarar as lr
from lorarar.lora import LoRA, LoraLayer

NAME = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "unet.down_blocks.0.resnets.0.conv1"


def layer(rank: int, seed: int, kernel: tuple[int, ...] = ()) -> LoraLayer:
    rng = np.random.default_rng(seed)
    down = rng.standard_normal((rank, 12, *kernel)).astype(np.float32)
    return LoraLayer(down, rng.standard_normal((20, rank, *(1,) * len(kernel))).astype(np.float32))


def test_each_layer_is_the_best_of_its_rank() -> None:
    lora = LoRA({NAME: layer(9, 0), CONVOLUTION: layer(7, 1, (3, 3)), "unet.conv_in": layer(3, 2, (3, 3))})
    small = lr.resize(lora, 3)
    assert small.max_rank == 3 and small.layers["unet.conv_in"] is lora.layers["unet.conv_in"]
    lost, whole, worst = 0.0, 0.0, 0.0
    for name in (NAME, CONVOLUTION):
        values = np.linalg.svd(lora.layers[name].delta().reshape(20, -1).astype(np.float64), compute_uv=False)
        best, norm = np.sum(values[3:] ** 2), np.sum(values**2)
        error = np.sum((lora.layers[name].delta() - small.layers[name].delta()).astype(np.float64) ** 2)
        assert error == pytest.approx(best, rel=1e-5)
        lost, whole, worst = lost + best, whole + norm, max(worst, np.sqrt(best / norm))
    told = [float(number) for number in re.findall(r"([\d.]+)%", small.warnings[-1])]
    assert told == [pytest.approx(100 * np.sqrt(lost / whole), abs=0.06), pytest.approx(100 * worst, abs=0.06)]


def test_a_lora_that_fits_stays_as_it_is() -> None:
    lora = LoRA({NAME: layer(4, 0)})
    assert lr.resize(lora, 4) is lora


def test_nan_is_refused() -> None:
    made = LoraLayer(np.full((4, 8), np.nan, np.float32), np.ones((8, 4), np.float32))
    with pytest.raises(lr.InputError, match="NaN"):
        lr.resize(LoRA({NAME: made}), 2)


def test_a_rank_below_1_is_refused() -> None:
    with pytest.raises(lr.InputError, match="`rank` is 0"):
        lr.resize(LoRA({NAME: layer(4, 0)}), 0)
