"""Layouts of the bases, and adapters: packing is exact, and unpacking gives the LoRA back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_world import random_lora

from lorarar.base.names import CONFIGS, load_layout, meta_unet
from lorarar.errors import InputError
from lorarar.layout import UNET, Group, Layout, pack, part_of, unpack
from lorarar.lora import LoRA, LoraLayer

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
    assert Layout.from_json(base, json.loads(json.dumps(layout.to_json(64)))) == layout


@pytest.mark.parametrize("base", CONFIGS)
def test_named_layouts_are_those_of_the_unets_that_diffusers_builds(base: str) -> None:
    linears = [
        (name, module.in_features, module.out_features)
        for name, module in meta_unet(base).named_modules()
        if isinstance(module, torch.nn.Linear) and ".attn" in name and part_of(name)
    ]
    assert Layout.from_linears(base, linears) == load_layout(base)


def test_koalas_modules_are_a_strict_subset_of_sdxls() -> None:
    sdxl = set(load_layout("sdxl").modules)
    for base in ("koala-700m", "koala-1b"):
        assert set(load_layout(base).modules) < sdxl


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
        ("[" * 100_000, "not valid JSON"),
        ('{"_class_name": "AutoencoderKL"}', "not the config of a UNet2DConditionModel"),
        ('{"block_out_channels": [32], "layers_per_block": "two"}', "can't be built by diffusers"),
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


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.integers(0, 7), st.integers(0, 999))
def test_packing_is_exact(layout: Layout, ranks: tuple[int, ...], more: int, seed: int) -> None:
    lora = random_lora(layout, ranks, seed)
    packed = pack(lora, layout, max(ranks) + more)
    assert packed.left_out == () and packed.left_out_share == 0 and packed.warning() is None
    for group in layout.groups:
        assert packed.adapter[group.down].shape == (len(group.modules), max(ranks) + more, group.in_features)
    back = unpack(packed.adapter, layout)
    assert back.layers.keys() == lora.layers.keys()
    for name, layer in lora.layers.items():
        np.testing.assert_array_equal(back.layers[name].down[: layer.rank], layer.down)
        np.testing.assert_array_equal(back.layers[name].up[:, : layer.rank], layer.up)
        assert not back.layers[name].down[layer.rank :].any() and not back.layers[name].up[:, layer.rank :].any()


def test_half_precision_balances_what_would_leave_its_range(layout: Layout) -> None:
    """up of 1e5 overflows fp16 and down of 1e-8 vanishes in it; their product, 1e-3, is harmless."""
    lora = random_lora(layout, (4,), 1, up_scale=1e5, down_scale=1e-8)
    back = unpack(pack(lora, layout, dtype=np.float16).adapter, layout)
    for name, layer in lora.layers.items():
        delta = layer.delta()
        np.testing.assert_allclose(back.layers[name].delta(), delta, rtol=0, atol=2e-3 * np.abs(delta).max())
    with pytest.raises(InputError, match="too large for half precision; use fp32"):
        pack(random_lora(layout, (4,), 1, up_scale=1e7, down_scale=1e4), layout, dtype=np.float16)


def test_what_an_adapter_leaves_out_is_told(layout: Layout) -> None:
    attention = random_lora(layout, (2,), 5)
    one = LoraLayer(np.eye(1, 8, dtype=np.float32), np.eye(8, 1, dtype=np.float32))
    lora = LoRA(dict(attention.layers) | {"unet.mid_block.ff": one, "text_encoder.q_proj": one})
    packed = pack(lora, layout)
    inside = sum(float(np.sum(layer.delta().astype(np.float64) ** 2)) for layer in attention.layers.values())
    assert packed.left_out == ("unet.mid_block.ff", "text_encoder.q_proj")
    assert packed.left_out_share == pytest.approx(2 / (inside + 2))
    assert "2 layers are outside the attention linears" in str(packed.warning())


def test_missing_layers_are_zero(layout: Layout) -> None:
    name = UNET + layout.groups[0].modules[1]
    lora = LoRA({name: random_lora(layout, (3,), 2).layers[name]})
    adapter = pack(lora, layout).adapter
    assert adapter[layout.groups[0].down][1].any() and not adapter[layout.groups[0].down][0].any()
    assert not adapter[layout.groups[-1].up].any()


def test_loras_that_do_not_fit_are_refused(layout: Layout) -> None:
    lora = random_lora(layout, (3,), 2)
    name = next(iter(lora.layers))
    wrong = LoraLayer(lora.layers[name].down[:, :-1], lora.layers[name].up)
    with pytest.raises(InputError, match=r"has shape \(32, 31\), tiny has \(32, 32\); the LoRA is for another base"):
        pack(LoRA({name: wrong}), layout)
    with pytest.raises(InputError, match="more than 2; export with a `rank` of 3"):
        pack(lora, layout, 2)
    with pytest.raises(InputError, match="none of its 1 layers is an attention linear of tiny"):
        pack(LoRA({"unet.other.to_q": lora.layers[name]}), layout)


def test_adapters_that_do_not_fit_are_refused(layout: Layout) -> None:
    adapter = pack(random_lora(layout, (3,), 2), layout).adapter
    with pytest.raises(InputError, match="was packed for another base"):
        unpack({k: v for k, v in adapter.items() if k != layout.groups[0].up}, layout)
    with pytest.raises(InputError, match="which are not those of tiny"):
        unpack(adapter | {layout.groups[0].up: adapter[layout.groups[0].up][:, :, :2]}, layout)


def test_a_group_that_contradicts_its_name_is_refused(layout: Layout) -> None:
    data = layout.to_json(4)
    data["groups"][0]["in"] = 33
    with pytest.raises(InputError, match="does not match its sizes"):
        Layout.from_json("tiny", data)
    assert Group("qo", 32, 64, ()).name == "qo_32x64"
