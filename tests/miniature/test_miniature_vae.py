"""The autoencoder's training: what its latents are like afterwards, and the signs of its loss's terms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_miniature import SMALL

from lorarar.base.untrained import build_tokenizer, new_pipeline
from miniature import vae as training
from miniature.loop import Schedule
from miniature.vae import encode_all, train_vae

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 96, 96, 3), np.uint8)


def losses(folder: Path, steps: int = 1) -> tuple[list[float], float]:
    """The loss of each step, and the spread of the latents after the last."""
    folder.mkdir(exist_ok=True)
    vae = new_pipeline(SMALL, build_tokenizer(["a dog"]), 0).vae
    found = train_vae(vae, IMAGES, folder / f"{steps}.state", 0, Schedule(steps, 1e-3, warmup=1))
    return found, float(encode_all(vae, IMAGES).float().std())


def test_latents_have_unit_variance(tmp_path: Path) -> None:
    found, spread = losses(tmp_path, steps=2)
    assert spread == pytest.approx(1, rel=0.01) and found[0] != found[1]


def test_a_posterior_far_from_the_normal_one_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The divergence is at least 0, and far above it for a posterior of little noise."""
    totals = []
    for weight in (0.0, 1.0):
        monkeypatch.setattr(training, "KL_WEIGHT", weight)
        totals.append(losses(tmp_path / str(weight))[0][0])
    assert totals[1] - totals[0] > 1
