"""The text encoders learn to read: what a caption tells, and what is asked about it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_miniature import SMALL

from lorarar.base.untrained import build_tokenizer, new_pipeline
from miniature.base import tokenize
from miniature.judge_data import UNSEEN
from miniature.loop import Schedule
from miniature.reading import ANSWERS, Reader, read, read_by_a_line, told_captions, train_reading
from miniature.styles import FAMILIES


def test_answers_are_what_the_captions_tell() -> None:
    texts, answers = told_captions(1, 300)
    names = list(ANSWERS)
    for text, row in zip(texts, answers.tolist(), strict=True):
        told = dict(zip(names, row, strict=True))
        assert f" {ANSWERS['kind'][told['kind']]}" in text
        for detail in ("body", "second", "marking", "marking_colour", "accessory", "accessory_colour"):
            word = "none" if told[detail] == UNSEEN else ANSWERS[detail][told[detail]]
            # Of a subject without a marking or an accessory a caption says nothing.
            assert word in ("none", "plain") or word.split()[-1] in text, (detail, text)
        style = list(FAMILIES.values())[told["style"]].description if told["style"] != UNSEEN else None
        assert text.endswith(f" in {style} style") if style else " style" not in text
    shares = (answers == UNSEEN).float().mean(0)
    assert shares[names.index("kind")] == 0 and 0.1 < shares[names.index("body")] < 0.2
    assert 0.2 < shares[names.index("style")] < 0.4
    assert told_captions(1, 300)[0] == texts and told_captions(2, 300)[0] != texts


def test_what_follows_a_caption_does_not_count() -> None:
    texts, _ = told_captions(1, 6)
    pipeline = new_pipeline(SMALL, build_tokenizer(texts), 0)
    tokens = tokenize(pipeline, texts)
    with torch.no_grad():
        average, pooled = read(pipeline, tokens)
        for row, text in enumerate(texts):
            alone = torch.tensor(pipeline.tokenizer(text)["input_ids"])[None]  # from the start mark to the end mark
            first = pipeline.text_encoder(alone, output_hidden_states=True).hidden_states[-2]
            second = pipeline.text_encoder_2(alone, output_hidden_states=True)
            wanted = torch.cat([first, second.hidden_states[-2]], -1).mean(1)[0]
            torch.testing.assert_close(average[row], wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(pooled[row], second.text_embeds[0], rtol=1e-4, atol=1e-5)


def test_encoders_that_learned_to_read_tell_small_words_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that never changed the encoders does worse on captions that neither has seen."""
    texts, _ = told_captions(0, 400)
    pipeline = new_pipeline(SMALL, build_tokenizer(texts), 0)
    monkeypatch.setattr("miniature.reading.BATCH", 48)
    losses = train_reading(pipeline, tmp_path / "state", 0, Schedule(steps=250, rate=3e-3, warmup=10), count=3000)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    fresh = new_pipeline(SMALL, build_tokenizer(texts), 0)
    learned, untaught = read_by_a_line(pipeline, 7, 1800), read_by_a_line(fresh, 7, 1800)
    for name in ("marking", "accessory"):
        assert learned[name] > untaught[name] + 0.05, (learned, untaught)
    assert learned["kind"] > 0.99


def test_a_reader_answers_every_question_by_both_readings() -> None:
    reader = Reader(10, 6)
    answered = reader(torch.zeros(3, 10), torch.zeros(3, 6))
    assert [[tuple(part.shape) for part in parts] for parts in answered] == [
        [(3, len(values))] * 2 for values in ANSWERS.values()
    ]
