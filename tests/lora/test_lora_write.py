"""Writing: round trips, one uniform rank, the same bytes, refusals; checked by the safetensors library."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from lorarar.errors import InputError
from lorarar.lora import WRITERS, LoRA, LoraLayer, read_lora, write_lora
from lorarar.lora.write import MADE_FOR, MAX_THREADS

NAMES = (
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
    "unet.up_blocks.0.attentions.2.proj_in",
    "unet.add_embedding.linear_1",
    "unet.conv_in",
    "unet.up_blocks.2.resnets.0.conv_shortcut",
    "text_encoder.text_model.encoder.layers.3.mlp.fc2",
    "text_encoder_2.text_model.encoder.layers.31.self_attn.k_proj",
    "text_encoder_2.text_projection",
)
CONVOLUTIONS = {"unet.conv_in": (3, 3), "unet.up_blocks.2.resnets.0.conv_shortcut": (1, 1)}
EPSILON = {"fp32": 2**-23, "fp16": 2**-10, "bf16": 2**-7}
TO_Q = NAMES[0]


def layer(rng: np.random.Generator, name: str, rank: int, scale: float = 1.0) -> LoraLayer:
    kernel = CONVOLUTIONS.get(name, ())
    down = rng.standard_normal((rank, 5, *kernel)).astype(np.float32)
    up = (rng.standard_normal((7, rank, *(1 for _ in kernel))) * scale).astype(np.float32)
    return LoraLayer(down, up)


def sample(ranks: dict[str, int], scale: float = 1.0) -> LoRA:
    rng = np.random.default_rng(7)
    return LoRA({name: layer(rng, name, rank, scale) for name, rank in ranks.items()})


@settings(max_examples=60)
@given(
    ranks=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 6), min_size=1),
    dialect=st.sampled_from(list(WRITERS)),
    dtype=st.sampled_from(list(EPSILON)),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ranks: dict[str, int], dialect: str, dtype: str, scale: float
) -> None:
    lora = sample(ranks, scale)
    path = tmp_path_factory.mktemp("round") / "a.safetensors"
    write_lora(lora, path, dialect, dtype)
    back = read_lora(path)
    assert set(back.layers) == set(lora.layers)
    for name, want in lora.layers.items():
        have = back.layers[name]
        component = name.partition(".")[0]
        assert have.rank == max(rank for other, rank in ranks.items() if other.partition(".")[0] == component)
        if dtype == "fp32":
            np.testing.assert_array_equal(have.down[: want.rank], want.down)
            np.testing.assert_array_equal(have.up[:, : want.rank], want.up)
            assert not have.down[want.rank :].any()
            assert not have.up[:, want.rank :].any()
        # Rounding both factors moves each product by at most 2ε of the sum of the products' magnitudes.
        bound = np.abs(want.up.reshape(7, -1)) @ np.abs(want.down.reshape(want.rank, -1))
        error = np.abs(have.delta() - want.delta()).reshape(7, -1)
        # Below 6e-5 float16 has a fixed step of 2^-24; after balancing the peaks are about the root of their product.
        peaks = float(np.sqrt(np.abs(want.down).max() * np.abs(want.up).max()))
        step = 2**-22 * want.rank * peaks if dtype == "fp16" else 1e-30
        assert (error <= 2 * EPSILON[dtype] * bound + step).all()


@pytest.mark.parametrize("dialect", WRITERS)
def test_bytes_depend_on_the_lora_alone(tmp_path: Path, dialect: str) -> None:
    lora = sample({name: index % 3 + 1 for index, name in enumerate(NAMES)})
    shuffled = LoRA(dict(reversed(lora.layers.items())), metadata={"b": "2", "a": "1"})
    write_lora(LoRA(lora.layers, metadata={"a": "1", "b": "2"}), tmp_path / "a.safetensors", dialect)
    write_lora(shuffled, tmp_path / "b.safetensors", dialect)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    write_lora(read_lora(tmp_path / "a.safetensors"), tmp_path / "c.safetensors", dialect)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_safetensors_library_reads_the_same(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.safetensors"
    write_lora(sample({TO_Q: 2, "unet.conv_in": 4}), path, "kohya", dtype)
    tensors = load_file(path)
    back = read_lora(path)
    flat = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    assert tensors[f"{flat}.alpha"] == np.float32(4)
    assert tensors[f"{flat}.lora_down.weight"].shape == (4, 5)
    np.testing.assert_array_equal(tensors[f"{flat}.lora_down.weight"].astype(np.float32), back.layers[TO_Q].down)
    with safe_open(path, "np") as file:
        assert file.metadata()["ss_network_dim"] == "4"


def test_stale_metadata_is_left_out(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": '{"unet.r": 64, "unet.lora_alpha": 1}', "ss_network_alpha": "1"}
    metadata |= {"sshs_model_hash": "1", "modelspec.hash_sha256": "2"}
    metadata |= {"ss_base_model_version": "sdxl_base_v1-0"}
    lora = LoRA(sample({TO_Q: 2}).layers, metadata=metadata)
    write_lora(lora, tmp_path / "a.safetensors")
    assert read_lora(tmp_path / "a.safetensors").metadata == {
        "ss_base_model_version": "sdxl_base_v1-0",
        "format": "pt",
    }


def test_metadata_that_is_no_unicode_is_written_so_that_others_read_it(tmp_path: Path) -> None:
    """A merge tells the names of its files, which may be in another encoding; JSON of a stranger may hold such too."""
    lora = LoRA(sample({TO_Q: 2}).layers, metadata={"content": "h\udce9.safetensors", "\ud800": "é"})
    write_lora(lora, tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"content": "h?.safetensors", "?": "é", "format": "pt"}


def sgm_names(lora: LoRA, folder: Path) -> bool:
    """Write a LoRA for kohya, and tell whether its blocks have SDXL's own names."""
    write_lora(lora, folder / "a.safetensors", "kohya")
    return any("input_blocks" in name for name in load_file(folder / "a.safetensors"))


def test_factors_without_a_product_are_refused() -> None:
    """numpy would repeat an `up` of rank 1 beside a `down` of rank 2; a convolution's `up` has a kernel of its own."""
    linear, convolution = (2, 8), (2, 8, 3, 3)
    for down, up in (
        *((linear, up) for up in ((8, 1), (8, 3), (8,), (8, 2, 1, 1))),
        *((convolution, up) for up in ((8, 2), (8, 2, 3, 3), (8, 1, 1, 1))),
    ):
        layer = object.__new__(LoraLayer)  # whose types are checked in tests before its own check is reached
        for name, shape in (("down", down), ("up", up)):
            object.__setattr__(layer, name, np.ones(shape, np.float32))
        with pytest.raises(InputError, match=r"have no product; give them as \(rank, in\) and \(out, rank\)"):
            layer.__post_init__()


def test_a_merge_for_koala_keeps_diffusers_names_beside_an_sdxl_lora(tmp_path: Path) -> None:
    """SDXL's own names mean other blocks in KOALA; modules that KOALA lacks are no module of it under any name."""
    second = "unet.down_blocks.2.attentions.1.transformer_blocks.5.attn1.to_q"
    layers = sample({TO_Q: 2, second: 2}).layers
    both = [{}, {MADE_FOR: "sdxl"}, {MADE_FOR: "koala"}]
    # The first module alone may be either base's.
    assert [sgm_names(LoRA(sample({TO_Q: 2}).layers, metadata=each), tmp_path) for each in both] == [False, True, False]
    for metadata, sgm in (({MADE_FOR: "koala"}, False), ({MADE_FOR: "sdxl"}, True), ({}, True)):
        assert sgm_names(LoRA(layers, metadata=metadata), tmp_path) is sgm
        assert set(read_lora(tmp_path / "a.safetensors").layers) == set(layers)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_writing_holds_one_layer_a_thread(tmp_path: Path, dtype: str) -> None:
    one = LoraLayer(np.ones((64, 2048), np.float32), np.ones((2048, 64), np.float32))
    name = "unet.down_blocks.2.attentions.1.transformer_blocks.{}.attn1.to_{}"
    lora = LoRA({name.format(index, part): one for index in range(10) for part in "qkv"})
    tracemalloc.start()
    try:
        write_lora(lora, tmp_path / "a.safetensors", dtype=dtype)
        assert tracemalloc.get_traced_memory()[1] < (2 + 2 * MAX_THREADS) * one.down.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("lora", "options", "words"),
    [
        (LoRA({}), {}, ("no layers",)),
        (sample({TO_Q: 1}), {"dialect": "onnx"}, ("onnx", "peft, kohya")),
        (sample({TO_Q: 1}), {"dtype": "fp8"}, ("fp8", "fp16")),
        (sample({"vae.conv_in": 1}), {}, ("vae.conv_in", "component")),
        (sample({"unet.down_blocks.3.attentions.0.proj_in": 1}), {"dialect": "kohya"}, ("down_blocks.3", "peft")),
        (sample({TO_Q: 1}, 1e12), {"dtype": "fp16"}, ("too large for fp16", "fp32", "to_q")),
        (sample({TO_Q: 1}, float("nan")), {}, ("NaN", "to_q")),
        (sample({TO_Q: 0}), {}, ("to_q", "rank 0")),
        (
            LoRA({TO_Q: LoraLayer(np.ones((4097, 1), np.float32), np.ones((1, 4097), np.float32))}),
            {},
            ("to_q", "1 to 4,096"),
        ),
        (sample({TO_Q: 1}, float("inf")), {"dtype": "bf16"}, ("infinity", "to_q")),
    ],
)
def test_refusals_leave_nothing_behind(tmp_path: Path, lora: LoRA, options: dict, words: tuple[str, ...]) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(InputError) as info:
        write_lora(lora, path, **options)
    assert all(word in str(info.value) for word in words), info.value
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"before"


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="device or a pipe"):
        sample({TO_Q: 1}).save(pipe)
    assert pipe.is_fifo()


def test_bfloat16_near_its_limit_does_not_round_to_infinity(tmp_path: Path) -> None:
    top = np.float32(3.4e38)
    lora = LoRA({TO_Q: LoraLayer(np.full((1, 2), top, np.float32), np.full((2, 1), top, np.float32))})
    with pytest.raises(InputError, match="too large for bf16"):
        write_lora(lora, tmp_path / "a.safetensors", dtype="bf16")
