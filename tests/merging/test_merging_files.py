"""Files that are merged a layer at a time: the same bytes as in memory, the same refusals, and little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_world import random_lora, tiny_layout

from lorarar.api import RUN_BASE
from lorarar.errors import InputError
from lorarar.layout import UNET, Layout
from lorarar.lora import LoRA, LoraLayer, open_lora, read_lora, write_lora
from lorarar.lora.layers import StoredLayer
from lorarar.lora.write import MADE_FOR, MAX_THREADS
from lorarar.merging import METHODS, MergeOptions, merge_loras
from lorarar.merging.types import finite

LAYOUT = tiny_layout("transformer")
CONV = "unet.down_blocks.1.resnets.0.conv1"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Both have layers that the other has not, and convolutions; alphas come from kohya's dialect."""
    paths = tmp_path / "content.safetensors", tmp_path / "style.safetensors"
    draw = np.random.default_rng(0)
    for number, path in enumerate(paths):
        layers = dict(random_lora(LAYOUT, (3, 2 + number), number, 0.2, 0.2).layers)
        del layers[list(layers)[number]]
        down, up = draw.standard_normal((4, 32, 3, 3)), draw.standard_normal((16, 4, 1, 1))
        layers[CONV] = LoraLayer(down.astype(np.float32), up.astype(np.float32))
        write_lora(LoRA(layers), path, dialect="kohya", dtype="fp16")
    return paths


def test_an_opened_lora_is_the_one_that_is_read(files: tuple[Path, Path]) -> None:
    opened, read = open_lora(files[0]), read_lora(files[0])
    assert all(isinstance(layer, StoredLayer) for layer in opened.layers.values())
    assert not any(isinstance(layer, StoredLayer) for layer in read.layers.values())
    assert list(opened.layers) == list(read.layers) and opened.ranks == read.ranks
    for name, want in read.layers.items():
        have = opened.layers[name]
        assert (have.shapes, have.weight_shape, have.rank) == (want.shapes, want.weight_shape, want.rank)
        np.testing.assert_array_equal(have.down, want.down)
        np.testing.assert_array_equal(have.up, want.up)
        np.testing.assert_array_equal(have.delta(), want.delta())
        assert have.squared_norm() == want.squared_norm()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("learned", *RUN_BASE)])
def test_opened_files_merge_to_the_same_bytes(
    files: tuple[Path, Path], tmp_path: Path, method: str, dtype: str
) -> None:
    options = MergeOptions(content_scale=0.7, style_scale=1.3)
    for name, take in (("opened", open_lora), ("read", read_lora)):
        merged = merge_loras(take(files[0]), take(files[1]), LAYOUT, method, options)
        write_lora(merged.lora, tmp_path / f"{name}.safetensors", dtype=dtype)
    assert (tmp_path / "opened.safetensors").read_bytes() == (tmp_path / "read.safetensors").read_bytes()


def test_what_only_a_loaded_layer_shows_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    large = LoRA(
        {
            name: LoraLayer(layer.down, layer.up * np.float32(1e37))
            for name, layer in random_lora(LAYOUT, (2,), 1).layers.items()
        }
    )
    write_lora(large, tmp_path / "large.safetensors")
    lora = open_lora(tmp_path / "large.safetensors")
    merged = merge_loras(lora, lora, LAYOUT, "direct", MergeOptions(content_scale=100.0))
    with pytest.raises(InputError, match="too large"):
        merged.lora.save(tmp_path / "merged.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.safetensors"]


def test_merging_files_holds_one_layer_a_thread(tmp_path: Path) -> None:
    one = LoraLayer(np.ones((64, 2048), np.float32), np.ones((2048, 64), np.float32))
    name = "unet.down_blocks.1.attentions.0.transformer_blocks.{}.ff.net.0.proj"
    attention = random_lora(LAYOUT, (1,), 1).layers
    write_lora(
        LoRA({**attention, **{name.format(index): one for index in range(40)}}),
        tmp_path / "a.safetensors",
        dtype="fp16",
    )
    layer = 2 * one.down.nbytes
    tracemalloc.start()
    try:
        lora = open_lora(tmp_path / "a.safetensors")
        merged = merge_loras(lora, lora, tiny_layout("attention"), "direct").lora
        merged.save(tmp_path / "b.safetensors", dtype="fp16")
        # Two layers that are joined, their copies, and what is written: of 40 layers of twice the rank.
        assert tracemalloc.get_traced_memory()[1] < 7 * MAX_THREADS * layer < 2 * 40 * layer / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("block", "made_for"), [("attentions.0", "koala"), ("attentions.1", "sdxl")])
def test_the_merged_file_names_the_architecture_whatever_its_base_is_called(block: str, made_for: str) -> None:
    """A layer of SDXL alone in one of the LoRAs makes no LoRA of SDXL of a merge for KOALA."""
    name, other = (f"down_blocks.1.{part}.transformer_blocks.0.attn1.to_q" for part in (block, "attentions.1"))
    layout = Layout.from_linears("3f1c0", [(name, 12, 12)])
    made = LoRA({UNET + place: LoraLayer(*np.ones((2, 12, 12), np.float32)) for place in {name, other}})
    merged = merge_loras(made, made, layout, "direct").lora
    assert merged.metadata[MADE_FOR] == made_for


def test_a_merge_has_no_array_of_its_loras() -> None:
    """What is made of a LoRA may be written to, also where only one of the two has a layer."""
    pair = [random_lora(LAYOUT, (2,), number) for number in range(2)]
    alone = list(pair[0].layers)[:2]
    content, style = (
        LoRA({n: layer for n, layer in lora.layers.items() if n != out})
        for lora, out in zip(pair, alone[::-1], strict=True)
    )
    merged = merge_loras(content, style, LAYOUT, "direct").lora
    for lora, name in zip((content, style), alone, strict=True):
        ours, theirs = merged.layers[name].load(), lora.layers[name].load()
        np.testing.assert_array_equal(ours.down, theirs.down)
        assert not np.shares_memory(ours.down, theirs.down) and not np.shares_memory(ours.up, theirs.up)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
def test_factors_of_another_type_are_refused(kind: type) -> None:
    """numpy's own numbers are float64, which torch's networks do not take."""
    layer = next(iter(random_lora(LAYOUT, (2,), 0).layers.values()))
    with pytest.raises(InputError, match=r"`down` holds float\d+; give float32, by \.astype\(np\.float32\)"):
        LoraLayer(layer.down.astype(kind), layer.up)


def test_numbers_that_ask_for_a_gradient_are_none() -> None:
    assert finite(torch.nn.Parameter(torch.ones(2))) is None
