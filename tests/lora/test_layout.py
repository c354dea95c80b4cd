"""Layouts of the bases: the linears that take LoRAs, in groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lorarar.base.names import CONFIGS, load_layout, meta_unet, with_text_encoders
from lorarar.base.sources import meta_parts
from lorarar.errors import InputError
from lorarar.layout import ADAPT, Group, Layout, StackSize, part_of
from lorarar.lora.names import CLIP_L_LAYERS, text_modules
from lorarar.synthetic import synthetic_lora

# Counted in the UNets that diffusers builds; the published sizes are 2.6B, 1.16B and 0.78B.
COUNTS = {
    "sdxl": (2567.464, [("qo_640x640", 40), ("qo_1280x1280", 240), ("kv_640x640", 20), ("kv_1280x1280", 120),
                        ("kv_2048x640", 20), ("kv_2048x1280", 120)]),
    "koala-700m": (782.823, [("qo_640x640", 24), ("qo_1280x1280", 60), ("kv_640x640", 12), ("kv_1280x1280", 30),
                             ("kv_2048x640", 12), ("kv_2048x1280", 30)]),
    "koala-1b": (1161.184, [("qo_640x640", 24), ("qo_1280x1280", 96), ("kv_640x640", 12), ("kv_1280x1280", 48),
                            ("kv_2048x640", 12), ("kv_2048x1280", 48)]),
}  # fmt: skip


@pytest.mark.parametrize("base", CONFIGS)
def test_bases_have_their_published_size_and_groups(base: str) -> None:
    millions, groups = COUNTS[base]
    layout = load_layout(base)
    assert [(group.name, len(group.modules)) for group in layout.groups] == groups
    assert sum(p.numel() for p in meta_unet(base).parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)
    assert Layout.from_json(base, json.loads(json.dumps(layout.to_json(StackSize(2, 64))))) == layout


@pytest.mark.parametrize("adapt", ADAPT)
@pytest.mark.parametrize("base", CONFIGS)
def test_named_layouts_are_those_of_the_unets_that_diffusers_builds(base: str, adapt: str) -> None:
    linears = [
        (name, module.in_features, module.out_features)
        for name, module in meta_unet(base).named_modules()
        if isinstance(module, torch.nn.Linear) and part_of(name)
    ]
    assert Layout.from_linears(base, linears, adapt) == load_layout(base, adapt)


def test_whole_transformers_have_the_feed_forward_and_the_projections_too() -> None:
    attention, whole = load_layout("sdxl"), load_layout("sdxl", "transformer")
    assert whole.groups[: len(attention.groups)] == attention.groups
    more = [(group.name, len(group.modules)) for group in whole.groups[len(attention.groups) :]]
    assert more == [("ff_640x5120", 10), ("ff_1280x10240", 60), ("ff_2560x640", 10), ("ff_5120x1280", 60),
                    ("proj_640x640", 10), ("proj_1280x1280", 12)]  # fmt: skip
    # All of SDXL's transformers: 11 with two projections each, 70 blocks with ten linears each.
    assert len(whole.modules) == 11 * 2 + 70 * 10
    with pytest.raises(InputError, match="`adapt` is 'all'; valid are attention and transformer"):
        load_layout("sdxl", "all")


def test_groups_know_the_kinds_that_they_hold() -> None:
    layout = load_layout("sdxl", "transformer")
    assert {group.part: group.kinds for group in layout.groups} == {
        "qo": ("q", "out"),
        "kv": ("k", "v"),
        "ff": (),
        "proj": (),
    }
    assert [group.part for group in layout.with_kinds(["k", "q"])] == ["qo"] * 2 + ["kv"] * 4


def test_a_diffusers_folder_is_a_base(tmp_path: Path) -> None:
    small = CONFIGS["koala-700m"] | {"block_out_channels": [32, 32, 64], "attention_head_dim": 2,
                                     "cross_attention_dim": 48, "_class_name": "UNet2DConditionModel"}  # fmt: skip
    (tmp_path / "mine" / "unet").mkdir(parents=True)
    (tmp_path / "mine" / "unet" / "config.json").write_text(json.dumps(small))
    layout = load_layout(str(tmp_path / "mine"))
    assert layout.base == "mine"
    assert [group.name for group in layout.part("qo")] == ["qo_32x32", "qo_64x64"]
    assert layout == Layout("mine", load_layout(str(tmp_path / "mine" / "unet")).groups)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"a": 1, "a": 2}', "has the key 'a' twice"),
        ("[" * 100_000, "not valid JSON"),
        ('{"_class_name": "AutoencoderKL"}', "not the config of a UNet2DConditionModel"),
        ('{"block_out_channels": [32], "layers_per_block": "two"}', "can't be built by diffusers"),
        (json.dumps(CONFIGS["koala-700m"] | {"norm_num_groups": 0}), "can't be built by diffusers"),
        (json.dumps(CONFIGS["koala-700m"] | {"cross_attention_dim": -5}), "can't be built by diffusers"),
        (json.dumps(CONFIGS["koala-700m"] | {"block_out_channels": [2**62] * 3}), "can't be built by diffusers"),
        ('{"down_block_types": ["Nonsense"], "up_block_types": ["UpBlock2D"], "block_out_channels": [32]}', "can't be"),
    ],
)
def test_bad_configs_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_layout(str(tmp_path))
    assert "\n" not in str(caught.value).strip()


def test_a_base_without_attention_is_refused() -> None:
    with pytest.raises(InputError, match="has no attention linears"):
        Layout.from_linears("mlp", [("ff.net.0", 8, 8)])


@pytest.mark.parametrize("base", ["sdxl", "koala-700m"])
def test_text_encoders_have_the_layers_that_loras_name_but_for_the_unused_last_one(base: str) -> None:
    """SDXL takes CLIP-L's states before its last layer, which so has no effect."""
    layout = with_text_encoders(load_layout(base), meta_parts(base))
    for part, component, last in (("te1", "text_encoder", CLIP_L_LAYERS - 1), ("te2", "text_encoder_2", -1)):
        named = {
            name for name in text_modules(component) if f".layers.{last}." not in name and "projection" not in name
        }
        found = [module for group in layout.part(part) for module in group.modules]
        assert set(found) == named and len(found) == len(named)
        assert layout.of(component) == layout.part(part)
    assert layout.of("unet") == load_layout(base).groups
    again = Layout.from_json(base, layout.to_json(StackSize(2, 8)))
    assert again == layout and set(again.places) == set(again.layers)


def test_a_group_that_contradicts_its_name_is_refused(layout: Layout) -> None:
    data = layout.to_json(StackSize(2, 4))
    data["groups"][0]["in"] = 33
    with pytest.raises(InputError, match="does not match its sizes"):
        Layout.from_json("tiny", data)
    assert Group("qo", 32, 64, ()).name == "qo_32x64"


def test_a_synthetic_lora_has_every_linear_of_both_text_encoders_too(layout: Layout) -> None:
    name = "text_model.encoder.layers.0.self_attn.q_proj"
    whole = layout.with_text_encoder("te1", [(name, 8, 8)]).with_text_encoder("te2", [(name, 12, 12)])
    lora = synthetic_lora(whole, rank=2)
    assert tuple(lora.layers) == whole.layers
    assert lora.layers[f"text_encoder.{name}"].weight_shape == (8, 8)
    assert lora.layers[f"text_encoder_2.{name}"].weight_shape == (12, 12)
