"""LoRA files as their producers name and store them, each against the same LoRA in PEFT's names, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lorarar.errors import InputError
from lorarar.lora import LoRA, read_lora
from lorarar.lora.names import flatten, unet_modules

RANK, ALPHA = 4, 2
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FORWARD = "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj"
PROJECTION = "mid_block.attentions.0.proj_in"
CONVOLUTION = "down_blocks.1.resnets.0.conv_shortcut"
ENCODER = "text_model.encoder.layers.3.self_attn.q_proj"
UNET = (ATTENTION, FORWARD, PROJECTION, CONVOLUTION)
MODULES = (*(f"unet.{name}" for name in UNET), *(f"text_encoder{number}.{ENCODER}" for number in ("", "_2")))
Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
Tensors = dict[str, torch.Tensor]


def factors() -> Factors:
    """Return down and up by full module name; a convolution's have four dimensions."""
    torch.manual_seed(0)
    made = {}
    for name in MODULES:
        down, up = torch.randn(RANK, 12), torch.randn(16, RANK)
        conv = name.endswith(CONVOLUTION)
        made[name] = (down[..., None, None], up[..., None, None]) if conv else (down, up)
    return made


def named(rename: Callable[[str], str], alpha: torch.Tensor | None = None) -> Tensors:
    """Name every layer as a producer does, with kohya's words for the factors."""
    made: Tensors = {}
    for name, (down, up) in factors().items():
        made |= {f"{rename(name)}.lora_down.weight": down, f"{rename(name)}.lora_up.weight": up}
        made[f"{rename(name)}.alpha"] = torch.tensor(float(ALPHA)) if alpha is None else alpha.clone()
    return made


def rooted(unet: str, first: str, second: str, name: Callable[[str], str]) -> Callable[[str], str]:
    """Put a producer's word for each component before a name that `name` spells."""
    roots = {"unet": unet, "text_encoder": first, "text_encoder_2": second}

    def rename(full: str) -> str:
        component, _, rest = full.partition(".")
        return f"{roots[component]}{name(rest)}"

    return rename


def sgm(name: str) -> str:
    """Return the name in Stability's own code: of the block, where the module itself has none of its own."""
    return unet_modules().get(name, name)


def same(read: LoRA, only: str = "") -> None:
    """Compare with the factors of PEFT's names, alpha folded into up."""
    want = {name: pair for name, pair in factors().items() if name.startswith(only)}
    assert read.layers.keys() == want.keys()
    for name, (down, up) in want.items():
        np.testing.assert_array_equal(read.layers[name].down, down.numpy(), err_msg=name)
        np.testing.assert_array_equal(read.layers[name].up, up.numpy() * np.float32(ALPHA / RANK), err_msg=name)


PRODUCERS: Mapping[str, Callable[[str], str]] = {
    "kohya": rooted("lora_unet_", "lora_te1_", "lora_te2_", lambda name: flatten(sgm(name))),
    "a unet. before kohya's names": rooted("unet.lora_unet_", "lora_te1_", "lora_te2_", flatten),
    "transformers 5": rooted(
        "lora_unet_", "lora_te1_", "lora_te2_", lambda name: flatten(name.removeprefix("text_model."))
    ),
    "ComfyUI": rooted(
        "diffusion_model.", "text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer.", sgm
    ),
    "OneTrainer, OMI": rooted("unet.", "clip_l.", "clip_g.", sgm),
    "OneTrainer, internal": rooted("lora_unet.", "lora_te1.", "lora_te2.", str),
}


@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_producers_names(producer: str) -> None:
    same(read_lora(named(PRODUCERS[producer])))


def test_lycoris_names() -> None:
    """SimpleTuner's, of the UNet alone."""
    tensors = named(rooted("lycoris_", "-", "-", flatten))
    same(read_lora({name: tensor for name, tensor in tensors.items() if name.startswith("lycoris_")}), "unet.")


def test_comfy_with_pefts_words() -> None:
    tensors = named(PRODUCERS["ComfyUI"])
    words = {"lora_down": "lora_A", "lora_up": "lora_B"}
    for old, new in words.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    same(read_lora(tensors))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("stored", [True, False], ids=["file", "state dict"])
def test_whole_alphas(dtype: torch.dtype, stored: bool, tmp_path: Path) -> None:
    """As current sd-scripts, AutoTrain and diffusers' own converter write them."""
    tensors = named(PRODUCERS["kohya"], torch.tensor(ALPHA, dtype=dtype))
    save_file(tensors, tmp_path / "a.safetensors")
    same(read_lora(tmp_path / "a.safetensors" if stored else tensors))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("stored", [True, False], ids=["file", "state dict"])
def test_factors_of_8_bits(dtype: torch.dtype, stored: bool, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in named(PRODUCERS["kohya"]).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    read = read_lora(tmp_path / "a.safetensors" if stored else tensors)
    for name, (down, up) in factors().items():
        np.testing.assert_array_equal(read.layers[name].down, down.to(dtype).float().numpy())
        np.testing.assert_array_equal(read.layers[name].up, up.to(dtype).float().numpy() / 2)


def test_every_float_of_8_bits(tmp_path: Path) -> None:
    """All finite values of both types, as torch reads them."""
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        every = torch.arange(256, dtype=torch.uint8).view(dtype)
        finite = every[every.float().isfinite()].reshape(1, -1)
        name = f"unet.{ATTENTION}"
        tensors = {f"{name}.lora_A.weight": finite.contiguous(), f"{name}.lora_B.weight": torch.ones(3, 1)}
        save_file(tensors, tmp_path / "a.safetensors")
        np.testing.assert_array_equal(read_lora(tmp_path / "a.safetensors").layers[name].down, finite.float().numpy())


def test_what_belongs_to_no_layer_is_named_and_left_out() -> None:
    extra = {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_q.alpha": torch.tensor(2.0),
        "lora_te3_text_model.alpha": torch.tensor(2.0),
        "emb_params": torch.zeros(2, 3),
    }
    read = read_lora(named(PRODUCERS["kohya"]) | extra)
    same(read)
    (warning,) = read.warnings
    assert "3 of its tensors" in warning and all(name in warning for name in extra)
    assert read_lora(named(PRODUCERS["kohya"])).warnings == ()


def test_an_extra_beside_a_layer_without_alpha_may_be_that_alpha() -> None:
    tensors = named(PRODUCERS["kohya"])
    name = next(name for name in tensors if name.endswith(".alpha"))
    tensors[name.replace(".alpha", ".alpla")] = tensors.pop(name)
    with pytest.raises(InputError, match="has no alpha, as other layers have"):
        read_lora(tensors)


@pytest.mark.parametrize(
    "name", ["lora_unet_single_blocks_0_linear1.lora_down.weight", "transformer.blocks.0.attn.to_q.lora_A.weight"]
)
def test_a_factor_of_an_unknown_module_is_no_extra(name: str) -> None:
    """It is a part of the LoRA, which would be lost."""
    with pytest.raises(InputError, match="belongs to no known dialect"):
        read_lora(named(PRODUCERS["kohya"]) | {name: torch.zeros(4, 4)})


def test_a_file_of_alphas_alone_is_no_lora() -> None:
    alphas = {name: tensor for name, tensor in named(PRODUCERS["kohya"]).items() if name.endswith("alpha")}
    with pytest.raises(InputError, match="no LoRA keys"):
        read_lora(alphas)


def test_an_up_without_its_down_is_no_extra() -> None:
    tensors = named(PRODUCERS["kohya"])
    gone = next(name for name in tensors if name.endswith("lora_down.weight"))
    with pytest.raises(InputError, match="no matching down"):
        read_lora({name: tensor for name, tensor in tensors.items() if name != gone})


def test_linears_stored_as_convolutions() -> None:
    tensors = named(PRODUCERS["kohya"])
    tensors = {name: it[..., None, None] if it.ndim == 2 else it for name, it in tensors.items()}
    same(read_lora(tensors))


def test_a_convolutions_up_stored_as_a_matrix() -> None:
    """As DyLoRA does."""
    tensors = named(PRODUCERS["kohya"])
    same(read_lora({name: it[..., 0, 0] if it.ndim == 4 and "up" in name else it for name, it in tensors.items()}))


def test_a_linear_with_a_kernel_is_refused() -> None:
    """It is of another model: there is no linear that it could be."""
    name = f"unet.{ATTENTION}"
    tensors = {f"{name}.lora_A.weight": torch.zeros(4, 8, 3, 3), f"{name}.lora_B.weight": torch.zeros(8, 4, 1, 1)}
    with pytest.raises(InputError, match="the module is linear"):
        read_lora(tensors)


def test_pefts_weights_without_their_configuration_are_told_of(tmp_path: Path) -> None:
    """PEFT keeps the scale apart; every other dialect's file says it, or has none."""
    down, up = factors()[MODULES[0]]
    wrapped, config = f"base_model.model.{ATTENTION}", {"r": RANK, "lora_alpha": 2 * ALPHA}
    tensors = {f"{wrapped}.lora_A.weight": down, f"{wrapped}.lora_B.weight": up}
    plain = {name.replace("base_model.model", "unet"): value for name, value in tensors.items()}
    for name, given, metadata in (
        ("dog", tensors, None),
        ("alpha", {**tensors, f"{wrapped}.alpha": torch.tensor(float(ALPHA))}, None),
        ("metadata", tensors, {"lora_adapter_metadata": json.dumps(config)}),
        ("diffusers", plain, None),
        ("adapter_model", tensors, None),
    ):
        save_file(given, tmp_path / f"{name}.safetensors", metadata)
    assert "adapter_config.json" in "".join(read_lora(tmp_path / "dog.safetensors").warnings)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    known = ("alpha.safetensors", "metadata.safetensors", "diffusers.safetensors", "adapter_model.safetensors", "")
    read = [*(read_lora(tmp_path / name) for name in known), read_lora(tensors, config=config)]
    assert [lora.warnings for lora in read] == [()] * len(read)
