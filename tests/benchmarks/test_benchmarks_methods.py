"""The methods' benchmark: what is timed is each method's own merge, and what it writes is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import methods as command
from benchmarks import timing
from benchmarks.methods_times import AGAIN, AS_COEFFICIENTS, AS_LORA, MEASURED, block_picks, klora_picks, merge_by
from lorarar.base.names import load_layout
from lorarar.errors import InputError
from lorarar.layout import Layout
from lorarar.lora import LoRA
from lorarar.merging import METHODS, MergeOptions, merge_loras
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
    options = MergeOptions(content_scale=AGAIN[0], style_scale=AGAIN[1])
    return merge_loras(*pair_for(layout), layout, method, options).lora


def deltas(lora: LoRA) -> dict[str, np.ndarray]:
    return {name: layer.delta() for name, layer in lora.layers.items()}


def assert_equal(have: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert have.keys() == want.keys() and want
    for name, delta in want.items():
        np.testing.assert_allclose(have[name], delta, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("method", ["direct", "norm-balance", "np-lora", "knots-ties", "ties"])
def test_the_session_ends_with_the_methods_merge(method: str, session: Session) -> None:
    layout = session.bundle.layout
    pair = pair_for(layout)
    session.load(pair)
    merge_by(method, session, pair)(AGAIN)
    assert_equal(deltas(session.merged().lora), deltas(merged(layout, method)))


def test_picks_are_the_methods_own(session: Session) -> None:
    layout = session.bundle.layout
    pair = pair_for(layout)
    session.load(pair)
    picks, values = block_picks(layout), {}
    blend = Blender(session.stack, 1.0).at(AGAIN, None, picks)
    for layer, (group, row) in layout.places.items():
        weights = blend[group.coefficients][row]
        values[layer] = sum(lora.layers[layer].delta() * m for lora, m in zip(pair, weights, strict=False))
    assert_equal(values, deltas(merged(layout, "block-router")))
    koala = block_picks(load_layout("koala-700m"))
    assert set(koala.values()) == {0, 1}
    assert koala["unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == 0
    assert koala["unet.up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q"] == 1
    plan = KLoRA.plan(*pair)
    assert klora_picks(pair) == {layer: int(not plan.picks_content(layer, 10, 20)) for layer in plan.ratios}


def test_the_command(
    bundle_folders: dict[tuple[str, str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "_SIZES", (512,))
    folder, out = bundle_folders["onnx", "fp32"], tmp_path / "methods.json"
    assert command.main([str(folder), "--runs", "2", "--threads", "1", "-o", str(out)]) == 0
    document = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == document
    cases = {case["name"]: case for case in document["cases"]}
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
    ],
)
def test_bad_input_is_told(given: list[str], message: str, bundle_folders: dict[tuple[str, str], Path]) -> None:
    with pytest.raises(InputError, match=message):
        command.main([str(bundle_folders["onnx", "fp32"]), *given])
