"""Rescaled guidance against diffusers' own function, where there is nothing to rescale, and in words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from runtime_py.guidance import guidance_in_words, rescaled


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_each_image_is_rescaled_as_diffusers_does_it(share: float) -> None:
    rng = np.random.default_rng(0)
    told, without = rng.standard_normal((2, 3, 4, 8, 8)).astype(np.float32) * np.array([1, 2, 5])[:, None, None, None]
    told, without = told.astype(np.float32), without.astype(np.float32)
    guided = without + np.float32(3) * (told - without)
    want = rescale_noise_cfg(torch.from_numpy(guided), torch.from_numpy(told), share).numpy()
    np.testing.assert_allclose(rescaled(guided, told, share), want, rtol=2e-6)


def test_a_prediction_without_any_spread_stays() -> None:
    flat, told = np.full((1, 4, 2, 2), 3, np.float32), np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
    np.testing.assert_array_equal(rescaled(flat, told, 1.0), flat)


def test_guidance_is_told_with_what_is_rescaled_of_it() -> None:
    assert guidance_in_words(2.5, 0.7) == "guidance 2.5, rescaled by 0.7"
    assert guidance_in_words(7.5, 0.0) == "guidance 7.5"
