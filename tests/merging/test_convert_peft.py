"""PEFT's adapters made plain: folder, file in it, state dict and diffusers' file give what PEFT's own merge adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
from peft_adapters import CONV, LINEAR, POINTWISE, Adapter, saved
from safetensors.numpy import load_file, save_file

import lorarar as lr
from lorarar.commands.convert import main
from lorarar.convert import convert
from lorarar.errors import InputError

SHAPES = {LINEAR: (12, 8), CONV: (6, 4, 3, 3), POINTWISE: (8, 6, 1, 1)}
SQUARE = {LINEAR: (8, 8), CONV: (6, 6, 3, 3), POINTWISE: (8, 8, 1, 1)}
TARGETS: dict[str, Any] = {"target_modules": ["to_q", "conv1", "conv_shortcut"]}
PATTERNS: dict[str, Any] = {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"conv1": 5, "attn1.to_q": 7}}
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=6, **TARGETS),
    "DoRA": lambda: peft.LoraConfig(r=3, lora_alpha=6, use_dora=True, **TARGETS),
    "DoRA, rsLoRA, patterns": lambda: peft.LoraConfig(
        r=3, lora_alpha=6, use_dora=True, use_rslora=True, **TARGETS, **PATTERNS
    ),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=12, **TARGETS),
    "LoHa, Tucker, patterns": lambda: peft.LoHaConfig(r=3, alpha=12, use_effective_conv2d=True, **TARGETS, **PATTERNS),
    "LoKr": lambda: peft.LoKrConfig(r=1, alpha=6, **TARGETS),
    "LoKr, Tucker": lambda: peft.LoKrConfig(r=1, alpha=6, use_effective_conv2d=True, **TARGETS),
    "LoKr, both cut": lambda: peft.LoKrConfig(r=1, alpha=6, decompose_both=True, decompose_factor=2, **TARGETS),
    "LoKr, whole factors": lambda: peft.LoKrConfig(r=4, alpha=10, **TARGETS, **PATTERNS),
}


def close(lora: lr.LoRA, adapter: Adapter) -> None:
    """At full rank nothing is lost."""
    assert set(lora.layers) == set(adapter.deltas)
    for name, want in adapter.deltas.items():
        scale = np.abs(want).max()
        assert scale > 0.01
        np.testing.assert_allclose(lora.layers[name].delta() / scale, want / scale, atol=2e-5)


@pytest.mark.parametrize("shapes", [SHAPES, SQUARE], ids=["out != in", "out == in"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_adds_is_what_a_plain_lora_adds(
    tmp_path: Path, kind: str, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    adapter = saved(tmp_path, CONFIGS[kind](), shapes)
    close(convert(tmp_path, 64, adapter.weights.get), adapter)
    # PEFT's weights mean nothing without the configuration beside them.
    close(convert(tmp_path / "adapter_model.safetensors", 64, adapter.weights.get), adapter)
    close(convert(adapter.state, 64, adapter.weights.get, config=adapter.config), adapter)


def test_a_folders_file_is_read_as_the_folder(tmp_path: Path) -> None:
    adapter = saved(tmp_path, CONFIGS["LoRA"](), SHAPES)
    close(lr.read_lora(tmp_path / "adapter_model.safetensors"), adapter)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "copied.safetensors")
    unscaled = lr.read_lora(tmp_path / "copied.safetensors").layers[f"unet.{LINEAR}"].delta()
    np.testing.assert_allclose(2 * unscaled, adapter.deltas[f"unet.{LINEAR}"], atol=1e-4)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_a_file_without_its_configuration_is_told(tmp_path: Path, kind: str) -> None:
    """Its scale can't be known, as of PEFT's plain LoRAs."""
    adapter = saved(tmp_path, CONFIGS[kind](), SHAPES)
    told = "its scale (alpha / rank) is in PEFT's adapter_config.json"
    assert told not in " ".join(convert(tmp_path, 64, adapter.weights.get).warnings)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "copied.safetensors")
    found = convert(tmp_path / "copied.safetensors", 64, adapter.weights.get)
    assert sum(told in warning for warning in found.warnings) == 1


@pytest.mark.parametrize("kind", ["DoRA", "DoRA, rsLoRA, patterns"])
def test_diffusers_file_of_a_dora(tmp_path: Path, kind: str) -> None:
    """diffusers keeps the configuration in the file's metadata, each field after its component."""
    adapter = saved(tmp_path / "peft", CONFIGS[kind](), SHAPES)
    told = {f"unet.{name}": value for name, value in _plain(adapter.config).items()}
    tensors = {name.replace("base_model.model.", "unet."): value for name, value in adapter.state.items()}
    source = tmp_path / "dora.safetensors"
    save_file(tensors, source, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    with pytest.raises(InputError, match="DoRA"):
        lr.read_lora(source)
    close(convert(source, 64, adapter.weights.get), adapter)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that JSON has: sets, as lists, among them."""
    return {
        name: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for name, value in config.items()
        if isinstance(value, str | int | float | dict | set | None)
    }


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "DoRA"])
def test_reading_such_a_folder_leads_to_converting_it(tmp_path: Path, kind: str) -> None:
    saved(tmp_path, CONFIGS[kind](), SHAPES)
    with pytest.raises(InputError, match="lorarar convert"):
        lr.read_lora(tmp_path)


@pytest.mark.parametrize(
    ("model", "component"), [("CLIPTextModel", "text_encoder"), ("CLIPTextModelWithProjection", "text_encoder_2")]
)
def test_a_text_encoders_folder_says_which(tmp_path: Path, model: str, component: str) -> None:
    linear = "text_model.encoder.layers.0.self_attn.q_proj"
    config = peft.LoHaConfig(r=2, alpha=6, target_modules=["q_proj"])
    adapter = saved(tmp_path, config, {linear: (8, 8)})
    with pytest.raises(InputError, match=r"which text encoder.*text_encoder_2"):
        convert(tmp_path, 64)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    told["auto_mapping"] = {"base_model_class": model}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    (name,) = convert(tmp_path, 64).layers
    assert name == f"{component}.{linear}"
    np.testing.assert_allclose(
        convert(tmp_path, 64).layers[name].delta(), adapter.deltas[f"unet.{linear}"], rtol=1e-4, atol=1e-4
    )


def test_a_configuration_that_is_not_the_tensors_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, CONFIGS["LoHa"](), SHAPES)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    for fields, words in (({"r": 5}, "rank 5"), ({"alpha": "two"}, "alpha is"), ({"peft_type": "IA3"}, "IA3 adapter")):
        (tmp_path / "adapter_config.json").write_text(json.dumps(told | fields))
        with pytest.raises(InputError, match=words):
            convert(tmp_path, 64)
    with pytest.raises(InputError, match="`config` belongs to a state dict"):
        convert(tmp_path, 64, config=told)


def test_the_commands_take_the_folder(tmp_path: Path) -> None:
    adapter = saved(tmp_path / "peft", CONFIGS["LoHa"](), SHAPES)
    out = tmp_path / "plain.safetensors"
    assert main([str(tmp_path / "peft"), "--rank", "64", "-o", str(out)]) == 0
    close(lr.read_lora(out), adapter)
    assert all(name.startswith("unet.") for name in load_file(out))
