"""What a session is given: coefficients, schedules and strengths that mean something, and more than two LoRAs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from stand_in import HYPERNET, StandIn, stand_in_backend
from untyped import run_untyped

from lorarar.composed import ComposedStart
from lorarar.errors import InputError
from lorarar.lora import LoraLayer, read_lora
from runtime_py import Bundle
from runtime_py.backends import onnx
from runtime_py.check import check_pipeline
from runtime_py.golden import golden_inputs
from runtime_py.manifest import MANIFEST
from runtime_py.session import Session

CONTENT, STYLE = HYPERNET / "content.safetensors", HYPERNET / "style.safetensors"
ONLY_THIRD = "unet.down_blocks.9.only_third"


def changed(folder: Path, to: Path, change: Any) -> Bundle:
    """Copy a bundle with another manifest."""
    shutil.copytree(folder, to)
    manifest = json.loads((to / MANIFEST).read_text())
    change(manifest)
    (to / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(to)


@pytest.fixture
def session(folder: Path, opened: list[str]) -> Session:
    made = Bundle.open(folder).session()
    made.load([CONTENT, STYLE])
    return made


def given_to(session: Session) -> dict[str, np.ndarray]:
    """Return coefficients for the layers of a group that no hypernetwork learns."""
    group = session.bundle.layout.part("kv")[0]
    return {name: np.full((2, group.in_features), 0.7, np.float32) for name in group.layers}


def test_block_weights_reach_layers_that_the_bundle_leaves_out(session: Session) -> None:
    layer, name = some_layer(), "unet.down_blocks.1.left_out"
    other = replace(read_lora(CONTENT), layers={**read_lora(CONTENT).layers, name: layer})
    session.load([other, STYLE])
    session.merge(strengths=(0.5, 1.0), block_weights={"down_blocks.1": (0.25, 1.0)})
    np.testing.assert_allclose(session.merged().lora.layers[name].delta(), 0.125 * layer.delta(), rtol=1e-6)


def test_k_lora_of_loras_without_a_common_layer_is_refused_when_it_is_merged(session: Session) -> None:
    content, style = read_lora(CONTENT), read_lora(STYLE)
    first, *others = content.layers
    session.load(
        [
            replace(content, layers={first: content.layers[first]}),
            replace(style, layers={name: style.layers[name] for name in others if name in style.layers}),
        ]
    )
    with pytest.raises(InputError, match="have no layer in common"):
        session.merge("k-lora")


def test_coefficients_of_no_layer_are_refused(session: Session) -> None:
    given = given_to(session)
    full = next(iter(given))
    short = full.removeprefix("unet.")
    with pytest.raises(InputError, match=rf"`coefficients` names {short}, .* such as unet\."):
        session.merge(coefficients={short: given[full]})
    for wrong in (given[full][:1], np.full_like(given[full], np.nan)):
        with pytest.raises(InputError, match=f"`coefficients` of {full} are not"):
            session.merge(coefficients={full: wrong})
    other = replace(read_lora(CONTENT), layers={**read_lora(CONTENT).layers, ONLY_THIRD: some_layer()})
    session.load([other, STYLE])
    session.merge(coefficients={ONLY_THIRD: given[full], **given})  # a layer of a LoRA, which the bundle leaves out
    session.load([CONTENT])
    with pytest.raises(InputError, match="`coefficients` are of two LoRAs"):
        session.merge(coefficients=given)


def some_layer() -> LoraLayer:
    return next(iter(read_lora(CONTENT).layers.values()))


def test_a_merge_by_given_coefficients_tells_no_network(session: Session) -> None:
    given = given_to(session)
    session.merge(coefficients=given, strengths=(1.0, 0.5))
    merged = session.merged()
    facts = merged.lora.metadata
    assert facts["lorarar_method"] == "given coefficients" and not any("hypernet" in name for name in facts)
    assert {name for name, kind in merged.kinds.items() if kind == "learned"} == given.keys()
    assert merged.coefficients is not None and merged.coefficients.keys() == given.keys()
    for name, pair in given.items():
        np.testing.assert_array_equal(merged.coefficients[name], pair * np.float32([[1.0], [0.5]]))
    assert "by given coefficients" in repr(session)
    session.merge()
    assert session.merged().lora.metadata["lorarar_hypernet_sha256"]
    assert not given.keys() & (session.merged().coefficients or {}).keys()


def test_given_coefficients_need_no_hypernetwork(folder: Path, opened: list[str], tmp_path: Path) -> None:
    def without(manifest: Any) -> None:
        del manifest["components"]["hypernet"], manifest["hypernetwork"]

    session = changed(folder, tmp_path / "bundle", without).session()
    session.load([CONTENT, STYLE])
    session.merge(coefficients=given_to(session))
    session.generate("a", steps=1)
    merged = session.merged()
    assert merged.lora.metadata["lorarar_rule"] == "average" and merged.count("learned") == len(given_to(session))


def three(manifest: Any) -> None:
    """Make room for a third LoRA."""
    manifest["layout"]["loras"] = 3
    for entry in manifest["components"].values():
        for tensor in (*entry["inputs"], *entry["outputs"]):
            place = {"roles": -1, "coefficients": -2}.get(tensor["name"].partition("_")[0])
            if place is not None:
                tensor["shape"][place] = 3
                if tensor["name"] in entry["golden"]["inputs"]:
                    rank, shape = manifest["layout"]["stacked_rank"], tensor["shape"]
                    shape = [rank if isinstance(size, str) else size for size in shape]
                    entry["golden"]["inputs"][tensor["name"]] = {"shape": shape, "value": 1}


def test_a_third_lora_is_told_of_as_the_first_two_are(folder: Path, opened: list[str], tmp_path: Path) -> None:
    session = changed(folder, tmp_path / "bundle", three).session()
    content, style = read_lora(CONTENT), read_lora(STYLE)
    small = {name: LoraLayer(layer.down[:1], layer.up[:, :1]) for name, layer in content.layers.items()}
    third = replace(content, layers={**small, ONLY_THIRD: some_layer()}, warnings=("the third: 5 tensors left out",))
    session.load([content, style, third])
    for make in (lambda: None, session.merge, lambda: session.generate("a", steps=1)):
        make()
        assert session.notes == third.warnings
    merged = session.merged()
    assert merged.warnings == third.warnings
    assert merged.coefficients is not None and {pair.shape[0] for pair in merged.coefficients.values()} == {2}
    assert merged.kinds[ONLY_THIRD] == "others only" and "content only" not in merged.kinds.values()


def test_notes_are_the_merges_after_a_merge(session: Session) -> None:
    session.generate("dog " * 100, steps=1)
    assert "cut off" in session.notes[0]
    session.merge()
    assert session.notes == ()
    name = "unet.down_blocks.7.attentions.0.transformer_blocks.0.attn1.to_q"
    style = read_lora(STYLE)
    session.load([CONTENT, replace(style, layers={**style.layers, name: some_layer()})])
    session.merge()
    assert "made for a larger base" in session.notes[0]


def test_what_the_types_forbid_is_refused_too(folder: Path) -> None:
    told = run_untyped("wrong_types.py", folder)
    assert len(told["found"]) > 30 and told["loaded"] == []
    assert [case for case in told["found"] if case[1] != "InputError" or not case[2].startswith(case[0])] == []


@pytest.mark.parametrize("row", [(1.0,), (1.0, 1e39), (1.0, np.nan), (1.0, 1.0, 1.0)])
def test_a_table_is_checked_before_anything_is_loaded(
    session: Session, opened: list[str], row: tuple[float, ...]
) -> None:
    with pytest.raises(InputError, match="`schedule` has"):
        session.generate("a", steps=4, schedule=[(1.0, 1.0)] * 3 + [row])
    with pytest.raises(InputError, match="`strengths` are"):
        session.draw_strengths(session.pipeline.request("a"), [(1.0, 1.0), row])
    with pytest.raises(InputError, match="`strengths` are"):
        session.merge(strengths=row)
    with pytest.raises(InputError, match="`schedule` has no rows"):
        session.generate("a", schedule=[])
    assert opened == []


def test_a_schedule_is_of_loras(folder: Path, opened: list[str]) -> None:
    with pytest.raises(InputError, match="no LoRA is loaded"):
        Bundle.open(folder).session().generate("a", steps=1, schedule=[(1.0, 1.0)])


@pytest.mark.parametrize("name", ["prompt", "negative", "subject", "subject_class"])
def test_bytes_that_are_no_text_are_refused(session: Session, name: str) -> None:
    """As a command line gives them that is not UTF-8."""
    texts = {"prompt": "a cat", "negative": "", "subject": "a cat", "subject_class": "an animal"}
    texts[name] = b"a \xff cat".decode("utf-8", "surrogateescape")
    if name == "subject":
        texts["prompt"] = texts["subject"] + " outside"
    start = ComposedStart(texts["subject"], texts["subject_class"])
    wrong = "prompt" if name == "subject" else name
    with pytest.raises(InputError, match=f"`{wrong}` is 'a .udcff cat.*UTF-8"):
        session.pipeline.request(texts["prompt"], negative=texts["negative"], composed=start)


def test_coefficients_that_overflow_are_refused_and_change_nothing(session: Session) -> None:
    session.merge("direct")
    before = {name: values.copy() for name, values in session.coefficients.items()}
    with pytest.raises(InputError, match="too large for float32; use smaller strengths"):
        session.merge("direct", strengths=(0.0, 1e30), block_weights={"down_blocks.1": 1e30})
    for name, values in session.coefficients.items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(("dtype", "said"), [("float32", "for these LoRAs; merge"), ("float16", "precision; use fp32")])
def test_coefficients_that_are_not_finite_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, said: str
) -> None:
    class Overflowing(StandIn):
        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {name: np.full_like(value, np.nan) for name, value in super().run(inputs).items()}

    def in_type(manifest: dict[str, Any]) -> None:
        for component in manifest["components"].values():
            for given in component["inputs"]:
                given["dtype"] = dtype if given["name"].startswith("adapter_") else given["dtype"]

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(Overflowing))
    session = changed(folder, tmp_path / "bundle", in_type).session()
    session.load([HYPERNET / "content.safetensors", HYPERNET / "style.safetensors"])
    with pytest.raises(InputError, match=f"the coefficients are not finite.*{said}"):
        session.merge("learned")


@pytest.mark.parametrize(("precision", "said"), [("w8", "smaller strengths"), ("fp16", "export it in fp32")])
@pytest.mark.parametrize("part", ["unet", "vae_decoder"])
def test_an_image_that_overflows_is_told_by_precision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, precision: str, said: str
) -> None:
    """A decoder's clamp may make numbers of latents that are none, as Snapdragon's does of NaN.

    ONNX Runtime computes in fp32 with weights of 8 bits: an export in fp32 would overflow as well.
    """

    class Overflowing(StandIn):
        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            if self.component.name == "vae_decoder":
                inputs = {name: np.nan_to_num(value, posinf=1, neginf=-1) for name, value in inputs.items()}
            found = super().run(inputs)
            fails = self.component.name == part
            return {name: np.full_like(value, np.inf) if fails else value for name, value in found.items()}

    monkeypatch.setattr(onnx, "BACKEND", stand_in_backend(Overflowing))

    def in_precision(manifest: dict[str, Any]) -> None:
        manifest["precision"] = precision
        for given in manifest["components"][part]["inputs"]:
            given["dtype"] = "float16" if precision == "fp16" else given["dtype"]

    bundle = changed(folder, tmp_path / "bundle", in_precision)
    with pytest.raises(InputError, match=said):
        bundle.session().generate("a", steps=1, guidance=1.0)
    row = check_pipeline(bundle)  # which has run, and must not be said to be without a runtime
    assert row.status == "failed" and said in row.reason and row.runtime == "stand-in for unet"


@pytest.mark.parametrize("size", [0, 1])
def test_a_model_of_other_shapes_than_it_declares_is_refused(folder: Path, tmp_path: Path, size: int) -> None:
    component = Bundle.open(folder).component("vae_decoder")
    (given,), (made,) = component.inputs, component.outputs
    kinds = [
        helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, [1, *spec.shape[1:]]) for spec in (given, made)
    ]
    values = {"start": [0], "end": [4], "axis": [0], "flat": [-1], "size": [size]}
    constants = [helper.make_tensor(name, TensorProto.INT64, [len(of)], of) for name, of in values.items()]
    nodes = [
        # Sizes that no tool can tell before the run.
        helper.make_node("Reshape", [given.name, "flat"], ["row"]),
        helper.make_node("Slice", ["row", "start", "end", "axis"], ["some"]),
        helper.make_node("Sub", ["some", "some"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], ["nothing"], to=TensorProto.INT64),
        helper.make_node("Add", ["nothing", "size"], ["sizes"]),
        helper.make_node("ConstantOfShape", ["sizes"], [made.name]),
    ]
    graph = helper.make_graph(nodes, "other", kinds[:1], kinds[1:], constants)
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "other.onnx").write_bytes(onnx_model.SerializeToString())
    runner = onnx.OnnxRunner(replace(component, path=tmp_path / "other.onnx"), None)
    with pytest.raises(InputError, match="its tensors are not the manifest's"):
        runner.run(golden_inputs(component))
