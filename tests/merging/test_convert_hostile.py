"""Damaged and hostile files made plain: each gives one sentence or a finite LoRA, and never takes much memory."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lora_mutations import MUTATIONS

import lorarar as lr
from lorarar.base.names import meta_unet
from lorarar.convert import convert
from lorarar.errors import InputError
from lorarar.foreign import MAX_DELTA

LINEAR = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_1_resnets_0_conv1"
OUT, INP, RANK = 6, 4, 2
Shapes = dict[str, tuple[int, ...]]

_SIDES: Shapes = {f"hada_w{n}_{end}": shape for n in (1, 2) for end, shape in (("a", (OUT, RANK)), ("b", (RANK, INP)))}
_TUCKER: Shapes = {
    f"hada_{part}": shape
    for n in (1, 2)
    for part, shape in ((f"w{n}_a", (RANK, OUT)), (f"w{n}_b", (RANK, INP)), (f"t{n}", (RANK, RANK, 3, 3)))
}
KINDS: dict[str, tuple[str, Shapes]] = {
    "LoHa": (LINEAR, _SIDES),
    "LoHa with a Tucker core": (CONV, _TUCKER),
    "LoKr": (LINEAR, {"lokr_w1_a": (3, RANK), "lokr_w1_b": (RANK, 2), "lokr_w2": (2, 2)}),
    "LoKr with a Tucker core": (
        CONV,
        {"lokr_w1": (3, 2), "lokr_w2_a": (RANK, 2), "lokr_w2_b": (RANK, 2), "lokr_t2": (RANK, RANK, 3, 3)},
    ),
    "difference": (LINEAR, {"diff": (OUT, INP)}),
    "DoRA": (LINEAR, {"lora_down.weight": (RANK, INP), "lora_up.weight": (OUT, RANK)}),
}
SHAPES = [
    *((), (0,), (1,), (2,), (24,), (0, 4), (4, 0), (0, 0), (1, 1), (2, 2), (4, 6), (2, 2, 2), (1, 1, 1, 1)),
    *((2, 2, 3, 3), (2, 2, 5, 5), (0, 2, 3, 3), (1, 1, 1, 1, 1)),
]
TINY, HUGE = (0.0, 1e-30), (3e38, -3e38)


def whole(kind: str) -> dict[str, np.ndarray]:
    """A good layer of a kind, with an alpha and a magnitude."""
    name, shapes = KINDS[kind]
    draw = np.random.default_rng(1)
    parts = {part: draw.standard_normal(shape) for part, shape in shapes.items()}
    parts |= {"alpha": np.array(2.0), "dora_scale": np.ones((OUT, *(1,) * (3 if name == CONV else 1)))}
    return {f"{name}.{part}": value.astype(np.float32) for part, value in parts.items()}


def base(name: str) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((OUT, INP, 3, 3) if "conv" in name else (OUT, INP), np.float32)


def mutations(kind: str) -> Iterator[dict[str, np.ndarray]]:
    good = whole(kind)
    for name, value in good.items():
        yield {other: kept for other, kept in good.items() if other != name}
        yield {name: value}
        for shape in SHAPES:
            yield good | {name: np.ones(shape, np.float32)}
        for number in (*TINY, *HUGE):
            yield good | {name: np.full_like(value, number)}
        yield good | {name: value.astype(np.int64)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_layer_is_refused_or_finite(kind: str) -> None:
    assert len(convert(whole(kind), 4, base).layers) == 1
    refused = 0
    for tensors in mutations(kind):
        without = {name: value for name, value in tensors.items() if not name.endswith("dora_scale")}
        for given in (tensors, without):
            try:
                lora = convert(given, 4, base)
            except InputError as error:
                refused += 1
                assert str(error).isprintable() and 20 < len(str(error)) < 600
            else:
                for layer in lora.layers.values():
                    assert np.isfinite(layer.down).all() and np.isfinite(layer.up).all()
    assert refused > 50


@pytest.mark.parametrize(("name", "verdict", "data"), MUTATIONS, ids=[name for name, _, _ in MUTATIONS])
def test_a_mutated_file_is_converted_as_it_is_read(tmp_path: Path, name: str, verdict: str, data: bytes) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(data)
    if verdict == "refuse":
        with pytest.raises(InputError) as caught:
            convert(path, 64)
        assert str(path) in str(caught.value) and str(caught.value).isprintable()
        return
    made, read = convert(path, 64), lr.read_lora(path)
    assert set(made.layers) == set(read.layers)
    assert all(np.array_equal(made.layers[module].delta(), layer.delta()) for module, layer in read.layers.items())


WIDE = 100_000  # ΔW of its square is 37 GiB
LARGE: dict[str, Shapes] = {
    "LoHa": {
        f"hada_w{n}_{end}": (WIDE, 1) if end == "a" else (1, WIDE) for n in (1, 2) for end in ("a", "b")
    },
    "LoKr": {"lokr_w1": (300, 300), "lokr_w2": (300, 300)},
    "LoKr of products": {"lokr_w1": (1, 1), "lokr_w2_a": (WIDE, 1), "lokr_w2_b": (1, WIDE)},
    "Tucker core": {"lokr_w1": (1, 1), "lokr_w2_a": (WIDE, 1), "lokr_w2_b": (1, WIDE), "lokr_t2": (WIDE, 1, 1, 1)},
    "difference": {"diff": (6000, 6000)},
    "DoRA": {"lora_up.weight": (WIDE, 1), "lora_down.weight": (1, WIDE), "dora_scale": (WIDE, 1)},
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_a_small_file_of_a_large_layer_is_refused_before_it_is_made(kind: str) -> None:
    name = CONV.replace("conv1", "conv_shortcut") if kind == "Tucker core" else LINEAR
    # A view of one zero: the tensors take no memory here themselves.
    tensors = {f"{name}.{part}": np.broadcast_to(np.float32(0), shape) for part, shape in LARGE[kind].items()}
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="too large"):
            convert(tensors, 4, lambda _: np.zeros((1, 1), np.float32))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_sdxls_widest_layer_is_not_too_large() -> None:
    sizes = [math.prod(parameter.shape) for parameter in meta_unet("sdxl").parameters()]
    assert max(sizes) <= MAX_DELTA < 2 * max(sizes)


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_a_bare_text_encoders_layer_does_not_say_which(prefix: str) -> None:
    name = f"{prefix}text_model.encoder.layers.0.self_attn.q_proj"
    tensors = {f"{name}.{part}": np.ones(shape, np.float32) for part, shape in _SIDES.items()}
    with pytest.raises(InputError, match=r"hada_w1_a' doesn't say which text encoder"):
        convert(tensors, 4)
