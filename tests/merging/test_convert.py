"""Plain LoRAs of files that are none: LoHa, LoKr and DoRA as PEFT computes them, differences, and what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

import lorarar as lr
from lorarar.base.weights import base_weights
from lorarar.commands.convert import main
from lorarar.commands.merge import main as merge
from lorarar.convert import convert
from lorarar.errors import InputError

OUT, INP, RANK = 12, 8, 3
MODULE = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FULL = f"unet.{MODULE}"
CONV = "down_blocks.1.resnets.0.conv1"


class Base(nn.Module):
    """One linear and one convolution under names of SDXL."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.to_q, self.conv1 = nn.Linear(INP, OUT), nn.Conv2d(4, 6, 3)


def by_peft(config: Any, seed: int = 1) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Base]:
    """PEFT's own tensors of an adapter of random numbers, the weights that it makes with it, and the base."""
    base = Base()
    model = peft.get_peft_model(base, config)
    torch.manual_seed(seed)
    names = ("hada_", "lokr_", "lora_")
    for name, parameter in model.named_parameters():
        if any(part in name for part in names):
            parameter.data = torch.randn(parameter.shape)
    state = {name: value.numpy() for name, value in peft.get_peft_model_state_dict(model).items()}
    merged = model.merge_and_unload()
    weights = {"to_q": merged.to_q.weight.detach().numpy(), "conv1": merged.conv1.weight.detach().numpy()}
    return state, weights, Base()


def renamed(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under the modules' real names."""
    places = {"to_q": f"unet.{MODULE}", "conv1": f"unet.{CONV}"}
    found = {}
    for name, value in state.items():
        _, _, rest = name.partition("base_model.model.")
        module, _, part = rest.partition(".")
        found[f"{places[module]}.{part}"] = value
    return found


def added(lora: lr.LoRA, name: str) -> np.ndarray:
    return lora.layers[name].delta()


@pytest.mark.parametrize("alpha", [1.0, 6.0])
@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoKr, both cut"])
def test_what_peft_adds_is_what_a_plain_lora_adds(kind: str, alpha: float) -> None:
    """At full rank nothing is lost. PEFT keeps alpha in its configuration, LyCORIS in the file."""
    targets = ["to_q", "conv1"]
    config: Any
    if kind == "LoHa":
        config = peft.LoHaConfig(r=RANK, alpha=alpha, target_modules=targets)
    else:
        config = peft.LoKrConfig(r=1, alpha=alpha, target_modules=targets, decompose_both=kind.endswith("cut"))
    state, weights, base = by_peft(config)
    named = renamed(state)
    named |= {f"unet.{module}.alpha": np.float32(alpha) for module in (MODULE, CONV)}
    lora = convert(named, 64)
    want = weights["to_q"] - base.to_q.weight.detach().numpy()
    assert np.abs(want).max() > 0.01
    np.testing.assert_allclose(added(lora, FULL), want, atol=1e-5 * np.abs(want).max() + 1e-6)
    want = weights["conv1"] - base.conv1.weight.detach().numpy()
    np.testing.assert_allclose(added(lora, f"unet.{CONV}"), want, atol=1e-5 * np.abs(want).max() + 1e-6)
    assert "2 layers were made plain, of rank 64 at most; ΔW changed by 0.0%" in lora.warnings[-1]


def test_dora_needs_its_base_and_is_then_pefts() -> None:
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["to_q"], use_dora=True)
    state, weights, base = by_peft(config)
    weight = base.to_q.weight.detach().numpy()
    named = renamed(state) | {f"{FULL}.alpha": np.float32(2 * RANK)}
    with pytest.raises(InputError, match="is a DoRA, whose ΔW depends on the base's weights; give the base"):
        convert(named, 64)
    lora = convert(named, 64, lambda name: weight if name == FULL else None)
    np.testing.assert_allclose(added(lora, FULL), weights["to_q"] - weight, atol=1e-5)
    with pytest.raises(InputError, match=r"has shape \(12, 8\), its base \(8, 12\)"):
        convert(named, 64, lambda _: weight.T)


def test_dora_by_inputs_as_lycoris_has_it() -> None:
    """dora_scale of shape (1, in): each column of W + ΔW gets its length."""
    draw = np.random.default_rng(3)
    weight, up, down = (draw.standard_normal(shape).astype(np.float32) for shape in ((OUT, INP), (OUT, 2), (2, INP)))
    scale = draw.uniform(0.5, 2, (1, INP)).astype(np.float32)
    named = {f"{FULL}.lora_up.weight": up, f"{FULL}.lora_down.weight": down, f"{FULL}.dora_scale": scale}
    flat = "lora_unet_" + MODULE.replace(".", "_")
    named = {name.replace(FULL, flat): value for name, value in named.items()}
    lora = convert(named, 64, lambda _: weight)
    have = weight + added(lora, FULL)
    np.testing.assert_allclose(np.linalg.norm(have, axis=0), scale[0], rtol=1e-4)
    whole = weight + up @ down
    np.testing.assert_allclose(have / np.linalg.norm(have, axis=0), whole / np.linalg.norm(whole, axis=0), atol=1e-5)


def test_a_difference_is_cut_to_the_nearest_of_the_rank_and_the_loss_is_told() -> None:
    draw = np.random.default_rng(4)
    delta = draw.standard_normal((OUT, INP)).astype(np.float32)
    named = {f"{FULL}.diff": delta, f"{FULL}.diff_b": np.ones(OUT, np.float32)}
    lora = convert(named, 2)
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    lost = np.sqrt((values[2:] ** 2).sum() / (values**2).sum())
    assert lora.layers[FULL].rank == 2
    assert np.linalg.norm(added(lora, FULL) - delta) / np.linalg.norm(delta) == pytest.approx(lost, rel=1e-4)
    assert f"ΔW changed by {lost:.1%}" in lora.warnings[-1]
    assert any("no differences of biases; 1 are left out" in text for text in lora.warnings)


def test_plain_layers_stay_as_they_are_or_are_cut() -> None:
    draw = np.random.default_rng(5)
    small, large = (
        (draw.standard_normal((OUT, rank)).astype(np.float32), draw.standard_normal((rank, INP)).astype(np.float32))
        for rank in (2, 7)
    )
    key = FULL.replace("to_q", "to_k")
    named = {f"{FULL}.lora_B.weight": small[0], f"{FULL}.lora_A.weight": small[1]}
    named |= {f"{key}.lora_B.weight": large[0], f"{key}.lora_A.weight": large[1]}
    other = {f"{FULL.replace('to_q', 'to_v')}.diff": draw.standard_normal((OUT, INP)).astype(np.float32)}
    for tensors in (named, named | other):
        lora = convert(tensors, 4)
        np.testing.assert_array_equal(lora.layers[FULL].down, small[1])
        assert lora.layers[key].rank == 4 and lora.layers[FULL].rank == 2


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{FULL}.hada_w1_a": np.ones((4, 2)), f"{FULL}.hada_w1_b": np.ones((2, 4))}, "has no hada_w2_a"),
        ({f"{FULL}.lokr_w1_a": np.ones((4, 2)), f"{FULL}.lokr_w2": np.ones((2, 4))}, "has no lokr_w1_b"),
        (
            {
                f"{FULL}.hada_w{n}_{end}": np.ones(shape)
                for n in (1, 2)
                for end, shape in (("a", (4, 2)), ("b", (3, 4)))
            },
            "do not fit together",
        ),
        ({f"{FULL}.dora_scale": np.ones((4, 1))}, "has a scale of DoRA and no factors"),
        ({f"{FULL}.diff": np.full((4, 4), np.nan)}, "holds NaN"),
        ({f"{FULL}.diff": np.ones(4)}, r"a ΔW of shape \(4,\)"),
        ({"unet.other.to_q.diff": np.ones((4, 4))}, "is of no module of SDXL that is known"),
        ({f"{FULL}.oft_blocks": np.ones((4, 4))}, "OFT layer"),
        ({}, "no LoRA keys"),
    ],
)
def test_what_can_not_be_converted_is_told(tensors: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert({name: value.astype(np.float32) for name, value in tensors.items()}, 4)


def test_a_merge_converts_first(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A DoRA of the tiny base, whose weights are opened for it, merged with itself."""
    weight = base_weights(str(tiny_pipeline))
    (name,) = [f"unet.{module}" for module in lr.load_layout(str(tiny_pipeline)).modules[:1]]
    shape = np.shape(weight(name))
    draw = np.random.default_rng(7)
    tensors = {f"{name}.lora_A.weight": draw.standard_normal((2, shape[1])).astype(np.float32)}
    tensors[f"{name}.lora_B.weight"] = draw.standard_normal((shape[0], 2)).astype(np.float32)
    tensors[f"{name}.lora_magnitude_vector"] = draw.uniform(1, 2, shape[0]).astype(np.float32)
    source, out = tmp_path / "dora.safetensors", tmp_path / "merged.safetensors"
    save_file(tensors, source)
    given = [str(source), str(source), "--base", str(tiny_pipeline), "--method", "direct", "--convert", "64"]
    assert merge([*given, "-o", str(out)]) == 0
    whole = weight(name) + tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    lengths = np.linalg.norm(whole, axis=1, keepdims=True)
    want = whole / lengths * tensors[f"{name}.lora_magnitude_vector"][:, None] - weight(name)
    np.testing.assert_allclose(lr.read_lora(out).layers[name].delta(), want, atol=1e-4)
    assert weight("unet.no.such") is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = f"lora_unet_{MODULE.replace('.', '_')}"
    draw = np.random.default_rng(6)
    shapes = {"hada_w1_a": (OUT, 2), "hada_w1_b": (2, INP), "hada_w2_a": (OUT, 2), "hada_w2_b": (2, INP)}
    tensors = {f"{flat}.{part}": draw.standard_normal(shape).astype(np.float32) for part, shape in shapes.items()}
    source, out = tmp_path / "loha.safetensors", tmp_path / "plain.safetensors"
    save_file(tensors, source)
    with pytest.raises(InputError, match=r"LoHa layer.*lorarar convert"):
        lr.read_lora(source)
    assert main([str(source), "--rank", "4", "--dialect", "kohya", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "1 layers, rank 4" in said.out and "warning: " in said.err and "made plain" in said.err
    want = (tensors[f"{flat}.hada_w1_a"] @ tensors[f"{flat}.hada_w1_b"]) * (
        tensors[f"{flat}.hada_w2_a"] @ tensors[f"{flat}.hada_w2_b"]
    )
    np.testing.assert_allclose(lr.read_lora(out).layers[FULL].delta(), want, atol=1e-4)
    with pytest.raises(InputError, match="--rank is 0"):
        main([str(source), "--rank", "0", "-o", str(out)])
    with pytest.raises(InputError, match="would overwrite the input"):
        main([str(source), "--rank", "4", "-o", str(source)])
