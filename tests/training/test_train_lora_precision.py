"""What a LoRA's training does in less than fp32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_training import SETTINGS, same, train

from lorarar.base.components import Components, load_components
from lorarar.errors import InputError
from lorarar.lora import LoRA


def test_a_lora_is_the_same_whichever_was_trained_before_it(tiny_pipeline: Path, images: tuple[Path, ...]) -> None:
    """accelerate wraps a network for autocast once, and takes an unwrapped one for wrapped."""
    settings, loras = replace(SETTINGS, mixed_precision="bf16"), []
    for before in ((), ("a sks dog",)):
        half = load_components(str(tiny_pipeline), dtype=torch.bfloat16)
        loras += [[train(half, images, prompt, settings) for prompt in (*before, "a sks cat")][-1]]
    assert same(*loras)


def test_a_cpu_does_not_train_in_fp16(components: Components, images: tuple[Path, ...]) -> None:
    with pytest.raises(InputError, match="`mixed_precision` is fp16, which a CPU can't train with; give bf16 or no"):
        train(components, images, "a sks dog", replace(SETTINGS, mixed_precision="fp16"))


def test_bf16_trains_in_fp32(tiny_pipeline: Path, images: tuple[Path, ...], trained: LoRA) -> None:
    half = load_components(str(tiny_pipeline), dtype=torch.bfloat16)
    lora = train(half, images, "a sks dog", SETTINGS)
    layer = next(iter(lora.layers.values()))
    assert not np.array_equal(layer.down, torch.from_numpy(layer.down).bfloat16().float().numpy())
    pairs = [(trained.layers[name].delta(), layer.delta()) for name, layer in lora.layers.items()]
    wanted, found = (np.concatenate([delta.ravel() for delta in deltas]) for deltas in zip(*pairs, strict=True))
    # Measured: 0.11, and 0.10 against an fp32 base of weights rounded to bf16: it is its activations' rounding.
    assert 0 < np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted)
    assert next(half.unet.parameters()).dtype == torch.bfloat16
