"""Half precision in runtime_py.mil: what is rounded and when, overflow, and a block of a UNet against torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mil_builder import ct, half, mb, only, save

from runtime_py.mil import OpTrace, Program
from runtime_py.mil.half import from_half, nearest_half


def test_fp16_mode_rounds_after_every_operation(tmp_path: Path) -> None:
    x = {"x": half(2048, 2050, 0.1)}

    def chain(x: Any) -> Any:
        return mb.sub(x=mb.add(x=mb.add(x=x, y=np.float16(1)), y=np.float16(1)), y=np.float16(0.1))

    program = Program.open(save(tmp_path / "p.mlpackage", chain, x, half=True))
    rounded = x["x"]
    for step in (1, 1, -0.1):
        rounded = (rounded.astype(np.float32) + np.float32(np.float16(step))).astype(np.float16)
    made = only(program.run(x, mode="fp16"))
    assert made.dtype == np.float16
    np.testing.assert_array_equal(made, rounded)
    assert made[0] == 2048  # 2048 + 1 lies between two halves, and both times rounds back
    exact = only(program.run(x, mode="fp32"))
    assert exact.dtype == np.float32
    np.testing.assert_allclose(exact, x["x"].astype(np.float32) + np.float32(2) - np.float32(np.float16(0.1)))


def test_rounding_to_half_equals_numpy_bit_for_bit() -> None:
    halves = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        ties = ((halves[:-1].astype(np.float64) + halves[1:]) / 2).astype(np.float32)
        above, below = (np.nextafter(ties, np.float32(limit)) for limit in (np.inf, -np.inf))
        every_kind = np.arange(0, 1 << 32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32)
        x = np.concatenate([halves, ties, above, below, every_kind])
        before, want = x.copy(), x.astype(np.float16)
        single = nearest_half(x)
        made = single.astype(np.float16)
        np.testing.assert_array_equal(x.view(np.uint32), before.view(np.uint32))  # only a given one is written
        assert nearest_half(before, in_place=True) is before
    halves = [(single, want.astype(np.float32), np.uint32), (before, want.astype(np.float32), np.uint32)]
    for found, right, bits in ((made, want, np.uint16), *halves):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(right))
        np.testing.assert_array_equal(*(np.where(np.isnan(value), 0, value.view(bits)) for value in (found, right)))


def test_widening_halves_equals_numpy_bit_for_bit() -> None:
    every_half = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    for x in (every_half, every_half.reshape(256, 256)[::3, ::-1].T, every_half[7:8].reshape(())):
        made, want = from_half(x), x.astype(np.float32)
        assert made.shape == want.shape
        np.testing.assert_array_equal(np.isnan(made), np.isnan(want))
        bits = [np.where(np.isnan(value), 0, value.view(np.uint32)) for value in (made, want)]
        np.testing.assert_array_equal(*bits)


def test_only_declared_halves_are_rounded(tmp_path: Path) -> None:
    def mixed(x: Any) -> Any:
        wide = mb.add(x=mb.cast(x=x, dtype="fp32"), y=np.float32(1))
        return mb.sub(x=wide, y=np.float32(2048))

    program = Program.open(save(tmp_path / "p.mlpackage", mixed, {"x": half(2048)}))
    assert only(program.run({"x": half(2048)}, mode="fp16")) == 1


def test_inputs_declared_half_are_rounded_in_fp16_mode_only(tmp_path: Path) -> None:
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x: mb.relu(x=x), {"x": half(0)}, half=True))
    assert only(program.run({"x": np.array([2049], np.float32)}, mode="fp16")) == 2048
    assert only(program.run({"x": np.array([2049], np.float32)}, mode="fp32")) == 2049
    assert np.isposinf(only(program.run({"x": np.array([1e6])}, mode="fp16")))


def test_trace_shows_where_half_precision_overflows(tmp_path: Path) -> None:
    def norm(x: Any) -> Any:
        square = mb.square(x=x, name="square")
        return mb.sub(x=mb.sqrt(x=square, name="root"), y=square, name="difference")

    x = {"x": half(300, 2, -1)}
    program = Program.open(save(tmp_path / "p.mlpackage", norm, x, half=True))
    trace: list[OpTrace] = []
    program.run(x, mode="fp16", trace=trace)
    assert [(t.type, t.output, t.largest, t.infinities, t.nans) for t in trace] == [
        ("square", "square", 4, 1, 0),
        ("sqrt", "root", 2, 1, 0),
        ("sub", "difference", 2, 0, 1),
    ]
    trace.clear()
    program.run(x, mode="fp32", trace=trace)
    assert [(t.largest, t.infinities, t.nans) for t in trace] == [(90000, 0, 0), (300, 0, 0), (89700, 0, 0)]


def test_stored_halves_stay_halves_and_compressed_weights_are_rounded(tmp_path: Path) -> None:
    def weight(x: Any) -> Any:
        data = np.arange(-8, 8, dtype=np.int8).reshape(1, 16)
        dense = mb.constexpr_affine_dequantize(quantized_data=data, zero_point=np.int8(0), scale=half(0.3)[0], axis=0)
        return mb.add(x=x, y=dense)

    x = {"x": np.zeros((1, 16), np.float16)}
    program = Program.open(save(tmp_path / "p.mlpackage", weight, x, 16, half=True))
    want = (np.arange(-8, 8, dtype=np.float32) * np.float32(np.float16(0.3))).astype(np.float16)
    np.testing.assert_array_equal(only(program.run(x, mode="fp32"))[0], want.astype(np.float32))


class Block(torch.nn.Module):
    """The pieces of a UNet: convolution, group normalization, time embedding, attention, GEGLU, up and down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(8, 32, 3, stride=2, padding=1)
        self.norm = torch.nn.GroupNorm(8, 32)
        self.time = torch.nn.Linear(16, 32)
        self.layer_norm = torch.nn.LayerNorm(32)
        self.qkv = torch.nn.Linear(32, 96, bias=False)
        self.grow = torch.nn.Linear(32, 128)
        self.shrink = torch.nn.Linear(64, 32)
        self.up = torch.nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        frequency = torch.exp(torch.arange(8) * -0.9)
        angle = t[:, None] * frequency[None]
        embedding = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        h = F.silu(self.norm(self.down(x))) + embedding[:, :, None, None]
        tokens = h.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.layer_norm(tokens)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        value, gate = self.grow(tokens + attended).chunk(2, -1)
        tokens = tokens + self.shrink(value * F.gelu(gate))
        h = tokens.transpose(1, 2).reshape(h.shape)
        return self.up(F.interpolate(h, scale_factor=2.0))


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, np.ndarray], np.ndarray]:
    """The block as packages of both precisions, an input, and torch's output."""
    torch.manual_seed(0)
    model = Block().eval()
    x, t = torch.randn(2, 8, 16, 16), torch.tensor([3.0, 7.0])
    paths = {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (x, t)).run_decompositions({})
        for name, precision in (("fp32", ct.precision.FLOAT32), ("fp16", ct.precision.FLOAT16)):
            paths[name] = tmp_path_factory.mktemp("block") / f"{name}.mlpackage"
            converted = ct.convert(
                exported,
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=precision,
                skip_model_load=True,
            )
            converted.save(str(paths[name]))
        expected = model(x, t).numpy()
    return paths, {"x": x.numpy(), "t": t.numpy()}, expected


def psnr(made: np.ndarray, want: np.ndarray) -> float:
    error = np.sqrt(np.mean((made.astype(np.float64) - want) ** 2))
    return float(20 * np.log10(np.abs(want).max() / error))


Block_ = tuple[dict[str, Path], dict[str, np.ndarray], np.ndarray]


def test_a_block_of_a_unet_equals_torch(block: Block_) -> None:
    paths, inputs, expected = block
    single, double = Program.open(paths["fp32"]), Program.open(paths["fp16"])
    assert psnr(only(single.run(inputs, mode="fp32")), expected) > 120
    assert psnr(only(single.run(inputs, mode="fp16")), expected) > 120  # nothing is declared half
    rounded = only(double.run(inputs, mode="fp16"))
    assert 50 < psnr(rounded, expected) < 90
    # In fp32 mode only the stored weights are halves, so the rest of the difference is gone.
    assert psnr(only(double.run(inputs, mode="fp32")), expected) > psnr(rounded, expected) + 3
    assert np.array_equal(rounded, only(double.run(inputs)))  # fp16 is the default, and runs repeat
