"""Stacked LoRAs with coefficients of their own in each column and image, against weights that were added to by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_mutations import with_golden
from shared_bundles import SharedUNets
from tiny_world import dense_delta, random_lora
from unet_runs import SIZE, TIME, Tensors, at_time, close, given, options, run, tiny_unet, with_diffusers

from export.write import write_unet
from lorarar.base.names import load_layout
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA
from lorarar.stack import stack
from runtime_py.backends import open_runner, ways_to_run
from runtime_py.bundle import Bundle
from runtime_py.check import check_component
from runtime_py.golden import golden_inputs
from runtime_py.parity import psnr_db


@pytest.fixture(scope="module")
def layout(shallow_pipeline: Path) -> Layout:
    return load_layout(str(shallow_pipeline), "transformer")


def by_hand(folder: Path, loras: list[LoRA], coefficients: Tensors, layout: Layout, inputs: Tensors) -> np.ndarray:
    """Each image of a batch by a stock UNet whose weights had Σₖ ΔWₖ·diag(mₖ) of that image added, in float64."""
    images = []
    for image in range(len(inputs["sample"])):
        unet = tiny_unet(folder)
        for group in layout.groups:
            for row, module in enumerate(group.modules):
                columns = coefficients[group.coefficients][image, row].astype(np.float64)
                parts = [dense_delta(lora.layers[UNET + module]) * columns[k] for k, lora in enumerate(loras)]
                weight = unet.get_submodule(module).weight
                weight.data = (weight.data.double() + torch.from_numpy(sum(parts))).float()
        one = {name: value[image : image + 1] for name, value in inputs.items() if not name.startswith(OF_STACKS)}
        images.append(with_diffusers(unet, one))
    return np.concatenate(images)


OF_STACKS = ("adapter_", "coefficients_", "roles")


def mixed_inputs(bundle: Bundle, loras: list[LoRA], rank: int | None) -> Tensors:
    """The golden inputs with these LoRAs stacked, and random coefficients for each column of each image."""
    component = bundle.component("unet")
    inputs, draw = golden_inputs(component), np.random.default_rng(11)
    inputs |= {name: np.tile(row, (len(inputs["sample"]), 1)) for name, row in at_time(TIME, component).items()}
    stacked = stack(loras, bundle.layout, bundle.stack.loras, rank).inputs
    inputs |= {name: tensor.astype(inputs[name].dtype) for name, tensor in stacked.items()}
    for name in [name for name in inputs if name.startswith("coefficients_")]:
        inputs[name] = draw.uniform(-1, 1.5, inputs[name].shape).astype(inputs[name].dtype)
    return inputs


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("onnx", "fp32"),
        ("coreml", "fp16"),
        ("coreai", "fp16"),
        pytest.param("executorch", "fp32", marks=[pytest.mark.full]),
    ],
)
def test_two_loras_with_coefficients_of_their_own_for_each_image(
    shallow_pipeline: Path, shared_unets: SharedUNets, layout: Layout, tmp_path: Path, target: str, precision: str
) -> None:
    """A batch of two, whose images have different merges of attention, feed-forward and projections."""
    chosen = replace(options(target, precision), size=replace(SIZE, batch=2))
    write_unet(tiny_unet(shallow_pipeline), layout, chosen, tmp_path / "pair")
    bundle = Bundle.open(tmp_path / "pair")
    loras = [random_lora(layout, (2, 1), 21, 0.3, 0.3), random_lora(layout, (4,), 22, 0.3, 0.2)]
    inputs = mixed_inputs(bundle, loras, bundle.stack.rank)
    want = by_hand(shallow_pipeline, loras, inputs, layout, inputs)
    swapped = inputs | {name: value[::-1].copy() for name, value in inputs.items() if name.startswith("coefficients_")}
    assert psnr_db(want, by_hand(shallow_pipeline, loras, swapped, layout, inputs)) < 20
    for session in (load() for load in ways_to_run(bundle, "unet")):
        assert close(run(session, inputs), want, target, precision), session.runtime


def test_plain_onnx_runtime_takes_stacks_of_any_rank(
    shallow_pipeline: Path, shared_unets: SharedUNets, layout: Layout
) -> None:
    """Ranks 5 and 16 in a graph that was traced with other ones, through nothing of ours."""
    import onnxruntime

    bundle = shared_unets["onnx", "fp32"]
    loras = [random_lora(layout, (5,), 31, 0.3, 0.3), random_lora(layout, (16, 3), 32, 0.2, 0.2)]
    inputs = mixed_inputs(bundle, loras, None)
    assert inputs["roles"].shape == (21, 2)
    session = onnxruntime.InferenceSession(bundle.component("unet").path, providers=["CPUExecutionProvider"])
    assert {value.name for value in session.get_inputs()} == set(inputs)
    assert not session.get_overridable_initializers()
    (have,) = session.run(["noise_pred"], inputs)
    want = by_hand(shallow_pipeline, loras, inputs, layout, inputs)
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-5 * np.abs(want).max())
    off = {name: np.zeros_like(value) for name, value in inputs.items() if name.startswith("coefficients_")}
    none = given(bundle, None)
    np.testing.assert_array_equal(session.run(None, inputs | off)[0], session.run(None, none)[0])


def test_the_attention_alone_can_be_adapted_by_three_loras(shallow_pipeline: Path, tmp_path: Path) -> None:
    attention = load_layout(str(shallow_pipeline))
    chosen = replace(options("onnx", "fp32"), loras=3)
    write_unet(tiny_unet(shallow_pipeline), attention, chosen, tmp_path / "attention")
    bundle = Bundle.open(tmp_path / "attention")
    assert bundle.layout.parts == ("qo", "kv") and bundle.stack.loras == 3
    ranks = ((2,), (4,), (1, 3))
    loras = [random_lora(attention, each, seed, 0.3, 0.3) for seed, each in enumerate(ranks, 21)]
    inputs = mixed_inputs(bundle, loras, None)
    want = by_hand(shallow_pipeline, loras, inputs, attention, inputs)
    assert close(run(open_runner(bundle, "unet"), inputs), want, "onnx", "fp32")


def test_an_effect_that_is_lost_fails_the_check(shared_unets: SharedUNets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths of the LoRAs' effect are told as such."""
    from runtime_py.backends.onnx import OnnxRunner

    run_all = OnnxRunner.run

    def weaker(self: OnnxRunner, inputs: Tensors) -> Tensors:
        less = {name: value * np.float32(0.9) for name, value in inputs.items() if name.startswith("coefficients_")}
        return run_all(self, inputs | less)

    bundle = shared_unets["onnx", "fp32"]
    (row,) = check_component(bundle, "unet")
    assert row.delta is not None and abs(row.delta.gain - 1) < 1e-4 and row.delta.cosine > 0.99999
    monkeypatch.setattr(OnnxRunner, "run", weaker)
    (row,) = check_component(bundle, "unet")
    assert row.status == "failed" and row.delta is not None and row.delta.gain == pytest.approx(0.9, abs=0.05)


def test_the_effect_alone_fails_the_check(shared_unets: SharedUNets, tmp_path: Path) -> None:
    """With the LoRAs the output is PyTorch's, without them it is not: only what they change tells."""
    bundle = Bundle.open(with_golden(shared_unets["onnx", "fp32"].path, tmp_path / "b", "unet", {".without": 1.5}))
    (row,) = check_component(bundle, "unet")
    assert row.delta is not None and all(output.within(replace(row.tolerance, delta=None)) for output in row.outputs)
    assert row.status == "failed"
    assert row.reason.startswith(f"the LoRAs' effect on noise_pred has gain {row.delta.gain:.4f} and cosine ")
