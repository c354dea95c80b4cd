"""Judges: the protocol, the language model's prompts and its P(yes) by hand, and the refusals."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scripted import ScriptedJudge, install
from tiny_vlm import save_tiny_vlm

from lorarar.errors import InputError
from lorarar.evaluation.judges import Judge, Question, load_judge
from lorarar.evaluation.judges.vlm import VlmJudge, answer_tokens, probability_of_yes
from lorarar.toolchains import quiet_toolchains


def image(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VlmJudge:
    judge = load_judge(str(save_tiny_vlm(tmp_path_factory.mktemp("vlm"))), batch=3)
    assert isinstance(judge, VlmJudge)
    return judge


def test_p_yes_is_the_softmax_over_both_answers() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0, 9.0]])
    weights = np.exp([1.0, 2.0, 3.0, 4.0])
    expected = (weights[0] + weights[2]) / weights.sum()
    assert probability_of_yes(logits, [0, 2], [1, 3]).item() == pytest.approx(expected)


SUBJECT_ASKED = (
    "Your task is to identify if the test image shows the same subject as the support image.\n\n"
    "Support image:\n<image>\n\nTest image:\n<image>\n\n"
    "Pay attention to the details of the subject, it should for example have the same color. "
    "However, the general style of the image may be different.\n"
    "Does the test image show the same subject as the support image?\n"
)
STYLE_ASKED = (
    "Your task is to identify if the test image shows the subject in neon glow style. "
    "An example image in the neon glow style is provided.\n\n"
    "Example image in the neon glow style:\n<image>\n\nTest image:\n<image>\n\n"
    "The example image shows an illustration of the neon glow style and the details of the subject are expected to be "
    "different.\nDo not check similarity with the subject.\nIs the test image in the neon glow style?\n"
)


@pytest.mark.parametrize(("is_style", "words"), [(False, SUBJECT_ASKED), (True, STYLE_ASKED)])
def test_p_yes_of_the_model_by_hand(vlm: VlmJudge, is_style: bool, words: str) -> None:
    """The whole path against: the text written out, one forward pass, a softmax over the vocabulary."""
    reference, test = image(1), image(2)
    text = (
        f"<|start|>system\nYou are a helpful assistant.<|end|>\n<|start|>user\n{words}"
        "Answer with Yes or No only.<|end|>\n<|start|>assistant\n"
    )
    with quiet_toolchains():
        inputs = vlm.processor(images=[reference, test], text=text, return_tensors="pt")
    with torch.inference_mode():
        chances = vlm.model(**inputs).logits[0, -1].double().softmax(dim=0)
    tokens = vlm.processor.tokenizer.get_vocab()
    # " Yes" and " No" both begin with a lone space here, and "NO" with an N of its own
    yes = sum(chances[tokens[word]] for word in ("Yes", "yes", "YES"))
    no = sum(chances[tokens[word]] for word in ("No", "no", "N"))
    ask = vlm.in_styles if is_style else vlm.same_subjects
    asked = Question(reference, test, "neon glow" if is_style else "dog")
    assert ask([asked]) == [pytest.approx(float(yes / (yes + no)), rel=1e-4)]


def test_a_batch_answers_as_one_by_one(vlm: VlmJudge) -> None:
    """Prompts of different lengths are padded; the answers are each style's own, on the same two images too."""
    styles = ["ink", "a very long description of watercolour with wet edges", "neon glow", "oil", "x"]
    questions = [Question(image(1), image(2), style) for style in styles]
    alone = [vlm.in_styles([question])[0] for question in questions]
    assert vlm.in_styles(questions) == pytest.approx(alone, rel=1e-4)
    distances = [abs(one - other) / one for one, other in combinations(alone, 2)]
    assert min(distances) > 1e-3
    assert vlm.same_subjects([]) == []


def test_the_order_of_the_images_and_the_images_count(vlm: VlmJudge) -> None:
    first, second = image(3), image(4)
    orders = ((first, second), (second, first), (first, first))
    answers = {vlm.same_subjects([Question(a, b, "dog")])[0] for a, b in orders}
    assert len(answers) == 3
    assert all(0 < answer < 1 for answer in answers)


def test_description_says_what_the_answers_depend_on(vlm: VlmJudge) -> None:
    described = vlm.describe()
    assert described["model"] == "llava"
    assert described["parameters"] == sum(parameter.numel() for parameter in vlm.model.parameters())
    assert described["dtype"] == "float32"
    template = vlm.processor.chat_template
    try:
        vlm.processor.chat_template = template + " "
        other = VlmJudge(vlm.model, vlm.processor, vlm.name)
        assert {name for name, value in other.describe().items() if value != described[name]} == {"processor"}
    finally:
        vlm.processor.chat_template = template
    assert isinstance(vlm, Judge)


class Letters:
    """A tokenizer whose tokens are letters."""

    def __init__(self, lead: str = "") -> None:
        self.lead = lead

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) for letter in self.lead + text]


def test_answer_tokens_leave_out_what_begins_both() -> None:
    yes, no = answer_tokens(Letters(), "x")
    assert (yes, no) == ([ord("Y"), ord("y")], [ord("N"), ord("n")])
    with pytest.raises(InputError, match="spells Yes and No with the same first token"):
        answer_tokens(Letters("▁"), "x")


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    return install(ScriptedJudge(lambda _: 1, lambda _: 0), tmp_path / "site", monkeypatch)


def judge_folder(place: Path, config: str) -> Path:
    place.mkdir()
    (place / "config.json").write_text(config)
    return place


def test_a_judge_is_found_by_its_name(scripted: ScriptedJudge) -> None:
    assert load_judge("scripted") is scripted
    assert scripted.folder is None and isinstance(scripted, Judge)


def test_a_folder_says_who_opens_it(scripted: ScriptedJudge, tmp_path: Path) -> None:
    folder = judge_folder(tmp_path / "judge", '{"judge": "scripted"}')
    assert load_judge(str(folder)) is scripted
    assert scripted.folder == folder


def test_a_folder_of_nobody_s_judge_is_refused(scripted: ScriptedJudge, tmp_path: Path) -> None:
    folder = judge_folder(tmp_path / "judge", '{"judge": "oracle"}')
    with pytest.raises(InputError, match="'oracle', which no installed package provides") as caught:
        load_judge(str(folder))
    listed = str(caught.value).split("there is ")[1].split(", ")
    assert {"miniature", "scripted"} <= set(listed)


@pytest.mark.parametrize("config", ['{"model_type": "clip"}', '{"judge": 3}', "[]", "{", "[" * 100_000])
def test_a_folder_that_is_no_judge(config: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check the folder"):
        load_judge(str(judge_folder(tmp_path / "judge", config)))


def test_a_judge_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="the judge 'no/such-judge' can't be loaded") as caught:
        load_judge("no/such-judge")
    assert "\n" not in str(caught.value)


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """Transformers draws them at random, so that each load would judge otherwise."""
    weights = save_tiny_vlm(tmp_path / "vlm") / "model.safetensors"
    kept = {name: value for name, value in load_file(weights).items() if "layers.1.mlp" not in name}
    save_file(kept, weights, {"format": "pt"})
    with pytest.raises(InputError, match=r"vlm lacks weights, such as .*layers\.1\.mlp"):
        load_judge(str(tmp_path / "vlm"))


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    folder = save_tiny_vlm(tmp_path / "vlm")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="has no chat template"):
        load_judge(str(folder))
