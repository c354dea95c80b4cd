"""What a merge in a session is: coefficients, by method, strength, block and step. Stand-ins run the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from stand_in import HYPERNET, StandIn, stand_in_backend

from lorarar.composed import ComposedStart
from lorarar.errors import InputError
from lorarar.lora import LoRA, open_lora, read_lora
from lorarar.merging.klora import KLoRA
from runtime_py import Bundle
from runtime_py.backends import onnx
from runtime_py.condition import Told as ToldRows
from runtime_py.guidance import Apart, Guided, Inputs, terms_of
from runtime_py.pipeline import Request

CONTENT, STYLE = HYPERNET / "content.safetensors", HYPERNET / "style.safetensors"


def test_a_strength_runs_no_graph_and_writes_the_coefficients_alone(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    run = StandIn.run

    def counted(self: StandIn, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        runs.append(self.component.name)
        return run(self, inputs)

    monkeypatch.setattr(StandIn, "run", counted)
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    session.merge()
    assert runs == ["hypernet"]
    runs.clear()
    before = {name: values.copy() for name, values in session.coefficients.items()}
    places = {name: id(values) for name, values in session.coefficients.items()}
    stack = {name: tensor.copy() for name, tensor in session.stack.inputs.items()}
    session.merge(strengths=(0.5, 2.0))
    session.merge(strengths=(0.5, 2.0), block_weights={"down_blocks.1": (1.0, 0.0)})
    assert runs == []
    assert {name: id(values) for name, values in session.coefficients.items()} == places
    for name, tensor in session.stack.inputs.items():
        np.testing.assert_array_equal(tensor, stack[name])
    layout = session.bundle.layout
    written = sum(values.nbytes for values in session.coefficients.values())
    assert written == sum(4 * 2 * len(group.modules) * group.in_features for group in layout.groups)
    for group in layout.groups:
        for row, module in enumerate(group.modules):
            factor = np.array([0.5, 0.0 if module.startswith("down_blocks.1.") else 2.0], np.float32)[:, None]
            np.testing.assert_array_equal(
                session.coefficients[group.coefficients][row], before[group.coefficients][row] * factor
            )


def test_coefficients_that_are_known_already_are_taken(folder: Path, opened: list[str]) -> None:
    """ZipLoRA's, or constants: layers without any get the rule's."""
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    group = session.bundle.layout.part("kv")[0]
    name = f"unet.{group.modules[0]}"
    given = np.arange(2 * group.in_features, dtype=np.float32).reshape(2, -1)
    session.merge(coefficients={name: given}, strengths=(1.0, 2.0))
    found = session.coefficients[group.coefficients]
    np.testing.assert_array_equal(found[0], given * np.float32([[1.0], [2.0]]))
    np.testing.assert_array_equal(found[1], np.broadcast_to([[0.5], [1.0]], found[1].shape))
    assert "hypernet" not in opened
    with pytest.raises(InputError, match=r"`coefficients` of .* are not \(2, 32\) finite numbers"):
        session.merge(coefficients={name: given[:1, :2]})
    with pytest.raises(InputError, match="`coefficients` mean nothing to direct"):
        session.merge("direct", coefficients={name: given})


def test_a_layer_of_one_lora_gets_its_strength(folder: Path, opened: list[str]) -> None:
    content, style = read_lora(CONTENT), read_lora(STYLE)
    session = Bundle.open(folder).session()
    group = session.bundle.layout.groups[0]
    names = [f"unet.{module}" for module in group.modules[:3]]
    content = replace(content, layers={n: layer for n, layer in content.layers.items() if n not in names[:2]})
    style = replace(style, layers={n: layer for n, layer in style.layers.items() if n not in names[1:3]})
    session.load([content, style])
    session.merge(strengths=(0.25, 0.75))
    found = session.coefficients[group.coefficients]
    for row, wanted in enumerate(((0.0, 0.75), (0.0, 0.0), (0.25, 0.0))):
        np.testing.assert_array_equal(found[row], np.broadcast_to(np.float32(wanted)[:, None], found[row].shape))


def test_block_weights_are_checked(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    with pytest.raises(InputError, match=r"names down_blocks\.7, which has no layer; there are down_blocks\.1, down_b"):
        session.merge(block_weights={"down_blocks.7": 1.0})
    for wrong in ((1.0,) * 3, np.nan, ()):
        with pytest.raises(InputError, match=r"`block_weights` of up_blocks\.0 are .*; give a finite number"):
            session.merge(block_weights={"up_blocks.0": wrong})  # type: ignore[dict-item]


@pytest.mark.parametrize("read", [read_lora, open_lora])
def test_a_finished_merge_stays_as_it_is(folder: Path, opened: list[str], read: Callable[[Path], LoRA]) -> None:
    """Those of files make their layers when they are written, which may be after the session's next merge."""
    session = Bundle.open(folder).session()
    session.load([read(CONTENT), read(STYLE)])
    session.merge(strengths=(0.5, 2.0))
    merged = session.merged()
    assert merged.coefficients
    downs = {name: layer.down.copy() for name, layer in merged.lora.layers.items()}
    told = {name: pair.copy() for name, pair in merged.coefficients.items()}
    session.merge(strengths=(3.0, 0.25))
    for name, down in downs.items():
        np.testing.assert_array_equal(merged.lora.layers[name].down, down)
    for name, pair in told.items():
        np.testing.assert_array_equal(merged.coefficients[name], pair)


class Recorded(StandIn):
    """Keeps what the UNet is given."""

    seen: ClassVar[list[dict[str, np.ndarray]]] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.component.name == "unet":
            self.seen.append({name: value.copy() for name, value in inputs.items()})
        return super().run(inputs)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(Recorded))
    monkeypatch.setattr(Recorded, "seen", [])
    return Recorded.seen


def test_guidance_without_lora_gives_the_other_row_zeros(folder: Path, seen: list[dict[str, np.ndarray]]) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    session.generate("a", steps=1)
    session.generate("a", steps=1, guidance_without_lora=True)
    session.generate("a", steps=1, guidance=1.0)
    for name, values in session.coefficients.items():
        both, acfg, alone = (inputs[name] for inputs in seen)
        np.testing.assert_array_equal(both, np.stack([values, values]))
        np.testing.assert_array_equal(acfg, np.stack([np.zeros_like(values), values]))
        np.testing.assert_array_equal(alone[0], values)


def test_a_composed_start_gives_each_row_one_lora(folder: Path, seen: list[dict[str, np.ndarray]]) -> None:
    """The first of two steps has four rows, run two at a time; the second has the merge's."""
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    session.merge(strengths=(0.5, 2.0), block_weights={"down_blocks.1": 0.25})
    session.generate("a sks cat", steps=2, composed=ComposedStart("a sks cat", "a cat"))
    session.generate("a sks cat", steps=1, guidance=1.0, composed=ComposedStart("a sks cat", "a cat"))
    for group in session.bundle.layout.groups:
        name, values = group.coefficients, session.coefficients[group.coefficients]
        weights = np.float32([0.25 if module.startswith("down_blocks.1.") else 1 for module in group.modules])
        first, second, merge, third, fourth = (inputs[name] for inputs in seen)
        alone = np.zeros_like(values)
        for given, kept in ((first[1], 0), (second[0], 1)):
            want = alone.copy()
            want[:, kept] = (weights * (0.5, 2.0)[kept])[:, None]
            np.testing.assert_array_equal(given, want)
        for given in (first[0], second[1], fourth[0]):
            np.testing.assert_array_equal(given, alone)
        np.testing.assert_array_equal(merge, np.stack([values, values]))
        np.testing.assert_array_equal(third, np.stack([first[1], second[0]]))


class Told(StandIn):
    """Answers each row with the mean of what it is told of its prompt."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.component.name != "unet":
            return super().run(inputs)
        means = inputs["encoder_hidden_states"].mean(axis=(1, 2))
        return {"noise_pred": np.broadcast_to(means[:, None, None, None], inputs["sample"].shape)}


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_composed_step_adds_the_three_answers_and_guides_their_sum(
    folder: Path, opened: list[str], guidance: float
) -> None:
    bundle = Bundle.open(folder)
    request = Request("a sks cat", 0, 1, guidance, composed=ComposedStart("a sks cat", "a cat"))
    unet = bundle.component("unet")
    values = {request.negative: 0.5, "a sks cat": 1.0, "a cat": 4.0}
    blend = {
        group.coefficients: np.zeros((len(group.modules), 2, group.in_features), np.float32)
        for group in bundle.layout.groups
    }
    inputs = Inputs({}, [blend], [Apart(blend, blend, blend)])
    spec = next(spec for spec in unet.inputs if spec.name == "encoder_hidden_states")
    terms = terms_of(request, inputs, 0, 0)
    rows = [{"encoder_hidden_states": np.full((1, *spec.shape[1:]), values[term.prompt], np.float32)} for term in terms]
    told = ToldRows(rows, [np.arange(len(rows))[None]], ())
    guided = Guided(Told(unet), unet, inputs, told, request)
    found = guided(np.zeros((1, *guided.latent_shape), np.float32), 1.0, 0)
    # The style's prompt is the class's here: 1 + 4 − 4.
    np.testing.assert_allclose(found, 1.0 if guidance == 1 else 0.5 + guidance * (1.0 - 0.5))


@pytest.mark.parametrize(
    ("start", "loras", "message"),
    [
        (("a sks dog", "a dog"), 2, "the prompt 'a sks cat' does not have"),
        (("a sks cat", ""), 2, "needs `subject` and `subject_class`"),
        (("a sks cat", "a cat", 0.0), 2, "`composed_share` is 0.0"),
        (("a sks cat", "a cat", 1.5), 2, "`composed_share` is 1.5"),
        (("a sks cat", "a cat"), 1, "load a content and a style LoRA"),
    ],
)
def test_an_impossible_composed_start_is_refused(
    folder: Path, opened: list[str], start: tuple[Any, ...], loras: int, message: str
) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE][:loras])
    with pytest.raises(InputError, match=message):
        session.generate("a sks cat", steps=1, composed=ComposedStart(*start))


def test_a_subject_is_whole_words_of_the_prompt() -> None:
    start = ComposedStart("a dog", "an animal")
    prompt = "a dog, not (a dog) in a doghouse of panda dogs, é_a dog_a dog犬"
    styled = "an animal, not (an animal) in a doghouse of panda dogs, é_an animal_an animal犬"
    assert start.prompts(prompt) == ("a dog", styled, "an animal")
    for other in ("a dogé", "3a dog", "panda dog"):
        with pytest.raises(InputError, match="does not have the `subject`"):
            start.prompts(other)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (lambda step, steps: (1.0, step / steps), [(1, 0), (1, 0.25), (1, 0.5), (1, 0.75)]),
        ([(1.0, 0.0), (0.0, 1.0)], [(1, 0), (1, 0), (0, 1), (0, 1)]),
    ],
)
def test_a_schedule_gives_strengths_step_by_step(
    folder: Path, seen: list[dict[str, np.ndarray]], schedule: Any, wanted: list[tuple[float, float]]
) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    session.generate("a", steps=4, guidance=1.0, schedule=schedule)
    unit = {name: values.copy() for name, values in session.coefficients.items()}
    assert len(seen) == 4
    for inputs, strengths in zip(seen, wanted, strict=True):
        for name, values in unit.items():
            np.testing.assert_allclose(inputs[name][0], values * np.float32(strengths)[:, None], rtol=1e-6)
    for wrong in ([], [(1.0,)], lambda *_: (np.nan, 1.0)):
        with pytest.raises(InputError, match=r"`schedule`|`strengths`"):
            session.generate("a", steps=2, schedule=wrong)


def test_k_lora_takes_one_lora_in_each_layer_and_step(folder: Path, seen: list[dict[str, np.ndarray]]) -> None:
    content, style = read_lora(CONTENT), read_lora(STYLE)
    session = Bundle.open(folder).session()
    session.load([style, content])
    session.merge("k-lora")
    session.generate("a", steps=1, guidance=1.0)  # plans the pair that comes before
    seen.clear()
    session.load([content, style])
    session.merge("k-lora", strengths=(0.5, 2.0), block_weights={"down_blocks.1": 0.5})
    session.generate("a", steps=4, guidance=1.0)
    plan = KLoRA.plan(content, style)
    picks = set()
    for step, inputs in enumerate(seen):
        for group in session.bundle.layout.groups:
            for row, module in enumerate(group.modules):
                is_content = plan.picks_content(f"unet.{module}", step, 4)
                weight = 0.5 if module.startswith("down_blocks.1.") else 1.0
                wanted = (0.5 * weight, 0.0) if is_content else (0.0, 2.0 * weight)
                have = inputs[group.coefficients][0, row]
                np.testing.assert_array_equal(have, np.broadcast_to(np.float32(wanted)[:, None], have.shape))
                picks.add((step, is_content))
    assert len(seen) == 4 and {True, False} <= {is_content for _, is_content in picks}
    with pytest.raises(InputError, match="so it is no LoRA file"):
        session.merged()
    with pytest.raises(InputError, match="K-LoRA's coefficients are others in each step"):
        _ = session.coefficients
    with pytest.raises(InputError, match="`schedule` means nothing to k-lora"):
        session.generate("a", schedule=[(1.0, 1.0)])
    drawn, run = list(seen), session.pipeline.request("a", steps=4, guidance=1.0)
    seen.clear()
    session.draw_strengths(run, [(0.5, 2.0)])
    for inputs, before in zip(seen, drawn, strict=True):
        for group in session.bundle.layout.groups:
            np.testing.assert_array_equal(inputs[group.coefficients][0], before[group.coefficients][0])


COMPOSED = ComposedStart("a sks cat", "a cat")


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("learned", {}),
        ("learned", {"composed": COMPOSED}),
        ("learned", {"schedule": lambda step, steps: (1.0, step / steps)}),
        ("k-lora", {}),
    ],
)
@pytest.mark.parametrize("change", ["merge", "load"])
def test_an_image_keeps_the_merge_that_it_was_begun_with(
    folder: Path, seen: list[dict[str, np.ndarray]], method: str, options: dict[str, Any], change: str
) -> None:
    """An app draws while the finger is on the sliders: what they change is of the next image."""

    def drawn(on_step: Any) -> list[dict[str, np.ndarray]]:
        session = Bundle.open(folder).session()
        session.load([CONTENT, STYLE])
        session.merge(method, strengths=(0.5, 2.0), block_weights={"down_blocks.1": 0.5})
        seen.clear()
        session.generate("a sks cat", steps=4, on_step=lambda *_: on_step(session), **options)
        return list(seen)

    changes = {
        "merge": lambda session: session.merge(method, strengths=(0.25, 3.0), block_weights={"down_blocks.1": 4.0}),
        "load": lambda session: session.load([STYLE]),
    }
    wanted, have = drawn(lambda _: None), drawn(changes[change])
    for step, (one, other) in enumerate(zip(wanted, have, strict=True)):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"{name} of run {step}")


def test_a_schedule_is_asked_once_a_step(folder: Path, opened: list[str]) -> None:
    """One that reads a slider would give the rows of a step strengths of their own."""
    asked: list[int] = []
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])

    def schedule(step: int, steps: int) -> tuple[float, float]:
        asked.append(step)
        return 1.0, 1.0

    session.generate("a sks cat", steps=4, composed=COMPOSED, schedule=schedule)
    assert asked == [0, 1, 2, 3]


def test_k_lora_needs_two_loras(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT])
    with pytest.raises(InputError, match="K-LoRA picks one of two LoRAs"):
        session.merge("k-lora")
    session.merge()
    assert any(values.any() for values in session.coefficients.values())  # what was loaded is still there


class ByRow(Recorded):
    """Answers each row by what that row alone is given."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = super().run(inputs)
        if self.component.name != "unet":
            return outputs
        rows = [value for name, value in inputs.items() if not name.startswith(("adapter_", "roles"))]
        sums = [value.astype(np.float64).reshape(len(value), -1).sum(axis=1) for value in rows]
        waves = np.sin(sum(total * (number + 1) for number, total in enumerate(sums)))
        return {"noise_pred": np.broadcast_to(waves[:, None, None, None], inputs["sample"].shape).astype(np.float32)}


@pytest.mark.parametrize(("guidance", "runs"), [(1.0, 2), (3.0, 3)])
def test_strengths_are_drawn_in_the_rows_of_one_batch(
    folder: Path, seen: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch, guidance: float, runs: int
) -> None:
    """Three images are three rows, with guidance six, in runs of two. Each image is what it is alone."""
    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(ByRow))
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    session.merge()
    request = session.pipeline.request("a dog", steps=2, guidance=guidance)
    strengths = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    drawn = session.draw_strengths(request, strengths)
    assert len(seen) == 2 * runs
    alone = []
    for each in strengths:
        session.merge(strengths=each)
        alone.append(session.draw(request).latents)
    assert not any(np.array_equal(alone[one], alone[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    for have, want in zip(drawn, alone, strict=True):
        np.testing.assert_array_equal(have.latents, want)


def test_what_is_carried_is_known_after_loading(folder: Path, opened: list[str]) -> None:
    session = Bundle.open(folder).session()
    session.load([CONTENT, STYLE])
    first, second = session.carried
    assert first.share == pytest.approx(1) and set(second.parts) == {"qo", "kv", "ff", "proj"}
    session.load([])
    assert session.carried == ()
