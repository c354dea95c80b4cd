"""What the tests of LoRA training share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.base.components import Components
from lorarar.lora import LoRA
from lorarar.training.dreambooth import train_lora
from lorarar.training.examples import Concept
from lorarar.training.settings import LoraSettings

SETTINGS = LoraSettings(rank=4, steps=6, learning_rate=1e-3, batch_size=2)


def train(components: Components, images: Sequence[Path], prompt: str, settings: LoraSettings, **options: Any) -> LoRA:
    """Train one LoRA on images that `prompt` describes."""
    return train_lora(components, [Concept(tuple(images), prompt)], settings, **options)


def same(one: LoRA, two: LoRA) -> bool:
    return one.layers.keys() == two.layers.keys() and all(
        np.array_equal(layer.down, two.layers[name].down) and np.array_equal(layer.up, two.layers[name].up)
        for name, layer in one.layers.items()
    )


def largest_difference(one: LoRA, two: LoRA) -> float:
    """Of ΔW, relative to the largest entry of the first."""
    peak = max(np.abs(layer.delta()).max() for layer in one.layers.values())
    return max(np.abs(one.layers[name].delta() - two.layers[name].delta()).max() for name in one.layers) / peak
