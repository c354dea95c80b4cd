"""Types and shapes of our packages are checked while tests run."""

from __future__ import annotations

import numpy as np
import pytest
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from lorarar.layout import part_of
from lorarar.lora.layers import LoraLayer, peak
from runtime_py.scheduler import SchedulerSettings, make_scheduler


def test_a_wrong_type_is_noticed() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        part_of(3)


def test_a_wrong_shape_is_noticed() -> None:
    """Of a field, of a parameter, and of a parameter whose shape has a name of ours (Latents)."""
    layer = LoraLayer(np.zeros((2, 3), np.float32), np.zeros((4, 2), np.float32))
    with pytest.raises(TypeCheckError):
        LoraLayer(layer.down, np.zeros((4, 5), np.float32))
    with pytest.raises(TypeCheckError):
        peak(np.zeros(3, np.float64))
    settings = SchedulerSettings("euler", 1000, 0.00085, 0.012, "scaled_linear", "epsilon", "leading")
    scheduler, latents = make_scheduler(settings, 4), np.zeros((1, 4, 2, 2), np.float32)
    assert scheduler.step(latents, 0, latents).shape == latents.shape
    with pytest.raises(TypeCheckError):
        scheduler.step(latents, 0, latents[:, :, :1])
