"""Training under words for a style: the answer that is learned, which examples, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lora_training import SETTINGS, largest_difference, same, train
from tiny_pipeline import save_tiny_dataset

from lorarar.base.components import Components, encode_prompts, predict
from lorarar.commands.train_lora import main
from lorarar.errors import InputError
from lorarar.evaluation.methods import fused_lora
from lorarar.lora import LoRA, read_lora
from lorarar.training import dreambooth
from lorarar.training.dataset import read_dataset
from lorarar.training.dreambooth import train_lora
from lorarar.training.examples import Concept, encode_concepts
from lorarar.training.settings import LoraSettings
from lorarar.training.style_words import StyleWords
from lorarar.training.styled import StyledPrompts, is_styled

WORDS = StyleWords("a dog", ("oil painting", "mosaic", "woodcut"))
STYLED = replace(SETTINGS, styled=0.5)
PROMPT = "a sks dog"


def test_half_of_a_trainings_examples_are_styled_though_a_step_has_one(
    components: Components, images: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in, styled = StyledPrompts.put_in, []

    def noted(self: StyledPrompts, *given: Any) -> Any:
        styled.append(len(given[-1]))
        return put_in(self, *given)

    monkeypatch.setattr(StyledPrompts, "put_in", noted)
    settings = replace(STYLED, steps=4, batch_size=1)
    train_lora(components, [Concept(images, PROMPT)], settings, words=WORDS)
    assert styled == [1, 1]


def test_the_answer_is_the_loras_own_and_what_the_words_change_in_the_base(
    components: Components, images: tuple[Path, ...]
) -> None:
    """Against a UNet with the LoRA in its weights, and one without, row by row."""
    examples = encode_concepts(components, [Concept(images, PROMPT)])
    batches = (examples.draw(step, range(4), 4, 5, 1000) for step in range(99))
    batch = next(batch for batch in batches if len({int(batch.chances[row] * 3) for row in (0, 3)}) == 2)
    noisy = components.noise.add_noise(batch.latents, batch.noise, batch.timesteps)
    untouched = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1))
    unet, rows = components.unet, [0, 3]
    with dreambooth._adapter(unet, SETTINGS, 1):
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        lora = LoRA(dreambooth._layers(unet))
        prompts = StyledPrompts.encode(components, PROMPT, WORDS)
        condition, goal = prompts.put_in(unet, unet, batch, noisy, untouched, rows)
        asked = predict(unet, noisy, batch.timesteps, condition)
        assert asked.requires_grad  # the adapter is on again, and learns

    def answer(row: int, prompt: str) -> torch.Tensor:
        at = slice(row, row + 1)
        return predict(unet, noisy[at], batch.timesteps[at], encode_prompts(components, [prompt]))[0]

    with torch.no_grad(), fused_lora(lora, unet):
        own = {row: answer(row, PROMPT) for row in rows}
        styles = [WORDS.styles[int(batch.chances[row] * 3)] for row in range(4)]
        said = [f"{PROMPT} in {style} style" if row in rows else PROMPT for row, style in enumerate(styles)]
        for row in range(4):
            torch.testing.assert_close(asked[row], answer(row, said[row]), atol=2e-4, rtol=1e-3)
    with torch.no_grad():
        for row in rows:
            change = answer(row, f"a dog in {styles[row]} style") - answer(row, "a dog")
            torch.testing.assert_close(goal[row], own[row] + change, atol=2e-4, rtol=1e-3)
    assert torch.equal(goal[1:3], untouched[1:3])


def test_every_style_s_words_have_their_turn(components: Components, images: tuple[Path, ...]) -> None:
    examples = encode_concepts(components, [Concept(images[:1], PROMPT)])
    chances = torch.cat([examples.draw(step, range(4), 4, 0, 1000).chances for step in range(100)])
    assert torch.histc(chances, 3, 0, 1).tolist() == pytest.approx([400 / 3] * 3, abs=40)
    assert float(chances.min()) >= 0 and float(chances.max()) < 1


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10**6), st.integers(1, 500))
def test_styled_examples_are_equally_spread(share: float, first: int, count: int) -> None:
    found = sum(is_styled(example, share) for example in range(first, first + count))
    assert abs(found - share * count) <= 1 + 1e-6


def test_a_training_learns_by_it(components: Components, images: tuple[Path, ...], trained: LoRA) -> None:
    """Cut into passes it is the same training; and it is another one than without the words, or with others."""
    settings = replace(STYLED, batch_size=4)
    losses: list[float] = []
    parts: list[float] = []
    whole = train(components, images, PROMPT, settings, words=WORDS, on_step=lambda _, loss: losses.append(loss))
    cut = replace(settings, accumulation=2)
    other = train(components, images, PROMPT, cut, words=WORDS, on_step=lambda _, loss: parts.append(loss))
    assert parts == pytest.approx(losses, rel=1e-5)
    assert largest_difference(whole, other) < 1e-2
    assert whole.metadata["lorarar_style_words"] == "a dog | oil painting | mosaic | woodcut"
    assert whole.metadata["lorarar_styled"] == "0.5" and "lorarar_style_words" not in trained.metadata
    again = train(components, images, PROMPT, settings, words=replace(WORDS, subject_class="a cat"))
    assert largest_difference(whole, again) > 1e-2


def test_a_state_of_other_words_is_refused(components: Components, images: tuple[Path, ...], tmp_path: Path) -> None:
    state = tmp_path / "state"
    train(components, images, PROMPT, STYLED, words=WORDS, state=state)
    with pytest.raises(InputError, match="words"):
        train(components, images, PROMPT, STYLED, words=replace(WORDS, styles=("oil painting",)), state=state)


def test_words_and_their_share_belong_together(components: Components, images: tuple[Path, ...]) -> None:
    subject = Concept(images, PROMPT)
    calls: list[tuple[list[Concept], LoraSettings, StyleWords | None]] = [
        ([subject], STYLED, None),
        ([subject], SETTINGS, WORDS),
        ([subject, subject], STYLED, WORDS),
    ]
    for concepts, settings, words in calls:
        with pytest.raises(InputError, match="`styled` is for one subject, with its class and words for styles"):
            train_lora(components, concepts, settings, words=words)
    for share in (-0.5, 1.0, float("nan")):
        with pytest.raises(InputError, match=f"`styled` is {share}; give a share from 0, below 1"):
            replace(SETTINGS, styled=share)
    for blank in ((" ", ("oil",)), ("a dog", ()), ("a dog", ("oil", " "))):
        with pytest.raises(InputError, match="needs a `subject_class` and `styles`"):
            StyleWords(*blank)


def test_the_command(
    tiny_pipeline: Path, components: Components, images: tuple[Path, ...], tmp_path: Path, capsys: Any
) -> None:
    """One LoRA, and a dataset's: subjects under the words of its training styles, and styles as ever."""
    fast = ["--rank", "4", "--steps", "6", "--learning-rate", "1e-3", "--batch-size", "2", "--styled", "0.5"]
    base = ["--base", str(tiny_pipeline), *fast]
    out = tmp_path / "one.safetensors"
    given = ["--images", *map(str, images), "--prompt", PROMPT, "--subject-class", "a dog"]
    assert main([*base, *given, "--styles", *WORDS.styles, "-o", str(out)]) == 0
    assert same(read_lora(out), train(components, images, PROMPT, STYLED, words=WORDS))
    folder = save_tiny_dataset(tmp_path / "data")
    described = folder / "dataset.json"
    raw = json.loads(described.read_text())
    described.write_text(json.dumps(raw | {"splits": {"mine": raw["splits"]["paper"]}}))
    dataset = read_dataset(folder)
    only = ["--dataset", str(folder), "--only", "content_0,style_0"]
    with pytest.raises(InputError, match="no split 'paper'; valid are mine"):
        main([*base, *only])
    assert main([*base, *only, "--split", "mine"]) == 0
    content, style = dataset.contents["content_0"], dataset.styles["style_0"]
    _, known = dataset.part("mine", "train")
    words = StyleWords(f"a {content.class_name}", tuple(each.description for each in known))
    assert same(read_lora(content.lora), train_lora(components, [content], STYLED, words=words))
    assert same(read_lora(style.lora), train_lora(components, [style], SETTINGS))
    capsys.readouterr()
    assert main([*base, *only, "--split", "mine"]) == 0
    again = capsys.readouterr()
    assert ("every LoRA is there; nothing to train" in again.out, again.err) == (True, "")
    content.lora.unlink()
    assert main([*base, *only, "--split", "mine"]) == 0
    assert same(read_lora(content.lora), train_lora(components, [content], STYLED, words=words))
    assert main([*base, *only, "--styles", "oil painting"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"content_0.safetensors was trained with style_words {words}, not a {content.class_name} | oil" in said
    assert "style_0" not in said
