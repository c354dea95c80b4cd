"""The methods' benchmark: what is timed is each method's own merge, and what it writes is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_world import tiny_hypernet

from benchmarks import methods as command
from benchmarks import methods_times, timing
from benchmarks.methods_times import (
    AGAIN,
    AS_COEFFICIENTS,
    AS_LORA,
    COMPOSED,
    MEASURED,
    Merge,
    block_picks,
    klora_picks,
    merge_by,
    random_grams,
)
from lorarar.base.names import load_layout
from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import LoRA
from lorarar.merging import METHODS, MergeOptions, merge_loras, predict_with
from lorarar.merging.klora import KLoRA
from lorarar.synthetic import synthetic_lora
from runtime_py.blend import Blender
from runtime_py.bundle import Bundle
from runtime_py.session import Session


@pytest.fixture
def session(bundle_folders: dict[tuple[str, str], Path]) -> Session:
    return Bundle.open(bundle_folders["onnx", "fp32"]).session(threads=1)


def pair_for(layout: Layout) -> tuple[LoRA, LoRA]:
    return synthetic_lora(layout, 2, 0), synthetic_lora(layout, 2, 1, strength=3.0)


def merged(layout: Layout, method: str) -> LoRA:
    pair = pair_for(layout)
    predict = predict_with(tiny_hypernet().predictor) if method == "learned" else None
    grams = random_grams(layout, pair) if method == "ssr" else None
    options = MergeOptions(content_scale=AGAIN[0], style_scale=AGAIN[1], predict=predict, grams=grams)
    return merge_loras(*pair, layout, method, options).lora


def deltas(lora: LoRA) -> dict[str, np.ndarray]:
    return {name: layer.delta() for name, layer in lora.layers.items()}


def assert_equal(have: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert have.keys() == want.keys() and want
    for name, delta in want.items():
        np.testing.assert_allclose(have[name], delta, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", ["direct", "learned", "norm-balance", *AS_LORA])
def test_the_session_ends_with_the_methods_merge(method: str, session: Session) -> None:
    layout = session.bundle.layout
    pair = pair_for(layout)
    session.load(pair)
    merge_by(method, session, pair)(AGAIN)
    assert_equal(deltas(session.merged().lora), deltas(merged(layout, method)))


@pytest.fixture
def blends(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What blenders write from here on, for timed merges keep none of it."""
    made: list[dict[str, np.ndarray]] = []
    at = Blender.at

    def noted(self: Blender, *given: Any) -> dict[str, np.ndarray]:
        made.append(at(self, *given))
        return made[-1]

    monkeypatch.setattr(Blender, "at", noted)
    return made


def blended(layout: Layout, pair: tuple[LoRA, LoRA], blend: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ΔW of each layer under these coefficients."""
    values: dict[str, np.ndarray] = {}
    for layer, (group, row) in layout.places.items():
        weights = blend[group.coefficients][row]
        values[layer] = np.sum([lora.layers[layer].delta() * m for lora, m in zip(pair, weights, strict=True)], 0)
    return values


def test_picks_are_the_methods_own(session: Session, blends: list[dict[str, np.ndarray]]) -> None:
    layout = session.bundle.layout
    pair = pair_for(layout)
    session.load(pair)
    for method in ("block-router", "k-lora"):
        merge_by(method, session, pair)(AGAIN)
    router, klora = (blended(layout, pair, blend) for blend in blends)
    assert_equal(router, deltas(merged(layout, "block-router")))
    picks = klora_picks(pair)
    assert_equal(klora, {layer: pair[pick].layers[layer].delta() * AGAIN[pick] for layer, pick in picks.items()})
    assert set(picks.values()) == {0, 1}
    koala = block_picks(load_layout("koala-700m"))
    assert set(koala.values()) == {0, 1}
    assert koala["unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == 0
    assert koala["unet.up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"] == 1
    plan = KLoRA.plan(*pair)
    assert klora_picks(pair) == {layer: int(not plan.picks_content(layer, 10, 20)) for layer in plan.ratios}


def test_a_composed_start_has_each_lora_alone_and_neither(
    session: Session, blends: list[dict[str, np.ndarray]]
) -> None:
    pair = pair_for(session.bundle.layout)
    session.load(pair)
    merge_by(COMPOSED, session, pair)(AGAIN)
    for blend, wanted in zip(blends, ((AGAIN[0], 0.0), (0.0, AGAIN[1]), (0.0, 0.0)), strict=True):
        for values in blend.values():
            np.testing.assert_array_equal(values, np.broadcast_to(np.float32(wanted)[:, None], values.shape))


def test_the_command(
    bundle_folders: dict[tuple[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "_SIZES", (512,))
    asked: list[tuple[str, tuple[float, ...]]] = []

    def noted(name: str, *given: Any) -> Merge:
        merge = merge_by(name, *given)
        return lambda strengths: asked.append((name, tuple(strengths))) or merge(strengths)

    monkeypatch.setattr(methods_times, "merge_by", noted)
    folder, out = bundle_folders["onnx", "fp32"], tmp_path / "methods.json"
    assert command.main([str(folder), "--runs", "2", "--threads", "1", "-o", str(out)]) == 0
    document = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document
    cases = {case["name"]: case for case in document["cases"]}
    # The warm-up and two turns, each of all methods.
    assert asked == [(name, strengths) for _ in range(3) for name in MEASURED for strengths in ((1.0, 1.0), (1.0, 0.5))]
    assert tuple(cases) == MEASURED and set(MEASURED) <= set(METHODS) | {"k-lora", "composed-start"}
    layout = Bundle.open(folder).layout
    coefficients = 4 * 2 * sum(len(group.modules) * group.in_features for group in layout.groups)
    for name, case in cases.items():
        assert case["first_s"] > 0 and case["again_s"] > 0 and len(case["seconds"]["first"]) == 2
        assert case["writes"] == ("coefficients" if name in AS_COEFFICIENTS else "adapter")
        assert case["every_step"] == (name == "k-lora")
        if name in AS_COEFFICIENTS:
            assert case["written_bytes"] == coefficients * (3 if name == "composed-start" else 1)
    assert all(cases[name]["written_bytes"] > 2 * coefficients for name in AS_LORA)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--methods", "ziplora"], r"--methods is 'ziplora'; valid are direct, learned"),
        (["--content", "a.safetensors"], "--content and --style belong together"),
        (["--runs", "0"], "--runs is 0"),
        (["--methods", " , "], "--methods is empty; give some of direct, learned"),
    ],
)
def test_bad_input_is_told(given: list[str], message: str, bundle_folders: dict[tuple[str, str], Path]) -> None:
    with pytest.raises(InputError, match=message):
        command.main([str(bundle_folders["onnx", "fp32"]), *given])
