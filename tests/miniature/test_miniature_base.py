"""The base's training: what a step learns of which draws, and the captions that are kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from small_miniature import SMALL

from lorarar.base.untrained import build_tokenizer, new_pipeline
from miniature.base import BATCH, BaseLoss, Captioned, encode, tokenize, train_base
from miniature.loop import Schedule, seeded

CAPTIONS = ["a red dog", "a cat in mosaic style", "a blue mug with white dots", "a duck"]


def test_the_base_learns_v_of_noise_that_ends_without_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = new_pipeline(SMALL, build_tokenizer(CAPTIONS), 0)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    assert schedule.alphas_cumprod[-1] < 1e-6 and pipeline.scheduler.config.prediction_type == "v_prediction"
    clean = torch.randn(4, 4, 24, 24, generator=torch.Generator().manual_seed(1)).half()
    data = Captioned(clean, tokenize(pipeline, CAPTIONS))
    seen: dict[str, torch.Tensor] = {}

    def perfect(
        noisy: torch.Tensor, times: torch.Tensor, embeds: torch.Tensor, *, added_cond_kwargs: dict[str, torch.Tensor]
    ) -> SimpleNamespace:
        """v from the rows that the step drew, found again by their noise-free part."""
        generator = seeded(6, 0)
        rows = torch.randint(4, (BATCH,), generator=generator)
        kept = torch.rand(BATCH, generator=generator) >= 0.1  # guidance learns from the others, which have no caption
        assert not kept.all()
        for said in (embeds, added_cond_kwargs["text_embeds"]):
            assert torch.equal(said.flatten(1).any(dim=1), kept)
        assert added_cond_kwargs["time_ids"].tolist() == [[96.0, 96.0, 0.0, 0.0, 96.0, 96.0]] * BATCH
        assert torch.equal(times, torch.randint(1000, (BATCH,), generator=generator))
        latents = clean[rows].float()
        noise = torch.randn(latents.shape, generator=generator)
        torch.testing.assert_close(noisy, schedule.add_noise(latents, noise, times))
        seen.update(times=times)
        return SimpleNamespace(sample=schedule.get_velocity(latents, noise, times) + 0.5)

    monkeypatch.setattr(pipeline.unet, "forward", perfect)
    loss_of = BaseLoss(pipeline, data, 6)
    loss = loss_of(0)
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))[seen["times"]]
    weights = torch.where(snr > 5, 6 / (snr + 1), torch.ones(()))
    torch.testing.assert_close(loss, 0.25 * weights.mean(), rtol=1e-4, atol=0)
    with pytest.raises(AssertionError):
        loss_of(1)  # has other draws


def test_a_later_round_has_draws_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pipeline = new_pipeline(SMALL, build_tokenizer(CAPTIONS), 0)
    data, asked = Captioned(torch.zeros(4, 4, 24, 24).half(), tokenize(pipeline, CAPTIONS)), []

    def noted(self: BaseLoss, step: int) -> torch.Tensor:
        asked.append(step)
        return next(pipeline.unet.parameters()).sum()

    monkeypatch.setattr(BaseLoss, "__call__", noted)
    schedule = Schedule(steps=2, rate=1e-3, warmup=1)
    train_base(pipeline, data, tmp_path / "state", 0, schedule, before=2, compiled=False)
    assert asked == [2, 3]


def test_captions_kept_from_the_finished_text_encoders_are_what_those_say() -> None:
    pipeline = new_pipeline(SMALL, build_tokenizer(CAPTIONS), 0)
    data = Captioned(torch.zeros(4, 4, 24, 24).half(), tokenize(pipeline, CAPTIONS))
    rows = torch.tensor([2, 0, 2])
    loss = BaseLoss(pipeline, data, 5)
    first = loss.text(rows)
    with torch.no_grad():
        said = encode(pipeline, data.tokens[rows])
    for have, want in zip(first, said, strict=True):
        assert not have.requires_grad
        torch.testing.assert_close(have.float(), want, rtol=0.02, atol=0.02)
    for weights in pipeline.text_encoder.parameters():
        weights.data.zero_()
    assert all(torch.equal(one, two) for one, two in zip(first, loss.text(rows), strict=True))
