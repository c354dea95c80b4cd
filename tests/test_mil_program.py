"""Running whole programs with runtime_py.mil: modes, trace, memory, inputs, functions, shapes, the command."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mil_builder import ct, mb, save, spread

from lorarar.cli import InputError
from runtime_py.mil import OpTrace, Program
from runtime_py.mil.__main__ import main
from runtime_py.mil.half import to_half
from runtime_py.mil.ops import OPS

ROOT = Path(__file__).resolve().parent.parent

# Converting from torch meets deprecated names inside coremltools and torch.export, none of which this project calls.
from_torch = pytest.mark.filterwarnings("ignore")


def half(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


def only(outputs: dict[str, np.ndarray]) -> np.ndarray:
    (value,) = outputs.values()
    return value


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
        made, want = to_half(x), x.astype(np.float16)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(want))
    bits = [np.where(np.isnan(value), 0, value.view(np.uint16)) for value in (made, want)]
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


def test_memory_stays_bounded_on_a_long_chain(tmp_path: Path) -> None:
    x = {"x": np.ones((256, 1024), np.float32)}

    def chain(x: Any) -> Any:
        for _ in range(40):
            x = mb.add(x=x, y=np.float32(1))
        return x

    program = Program.open(save(tmp_path / "p.mlpackage", chain, x))
    tracemalloc.start()
    try:
        made = only(program.run(x, mode="fp32"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (made == 41).all()
    assert peak < 2.5 * made.nbytes


def test_compressed_weights_are_dense_one_at_a_time(tmp_path: Path) -> None:
    x = {"x": np.ones((1, 512), np.float32)}
    data = np.ones((512, 512), np.int8)

    def stacked(x: Any) -> Any:
        weights = [
            mb.constexpr_affine_dequantize(
                quantized_data=data + np.int8(index), zero_point=np.int8(0), scale=np.float32(1 / 1024), axis=0
            )
            for index in range(12)
        ]
        for weight in weights:  # all of them stand before their first reader
            x = mb.linear(x=x, weight=weight)
        return x

    program = Program.open(save(tmp_path / "p.mlpackage", stacked, x, 16))
    tracemalloc.start()
    try:
        program.run(x, mode="fp32")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * data.size * 4


def test_progress_counts_every_step(tmp_path: Path) -> None:
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x: mb.exp(x=mb.abs(x=x)), {"x": spread(3)}))
    seen: list[tuple[int, int]] = []
    program.run({"x": spread(3)}, mode="fp32", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_inputs_are_not_changed(tmp_path: Path) -> None:
    x = {"x": spread(3, 4)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x: mb.softmax(x=mb.identity(x=x)), x))
    before = x["x"].copy()
    program.run(x, mode="fp32")
    np.testing.assert_array_equal(x["x"], before)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "lack 'i'"),
        ({"x": spread(2, 3)}, "lack 'i'"),
        ({"x": spread(2, 3), "i": np.zeros(1, np.int32), "z": spread(1)}, "have 'z'"),
        ({"x": spread(3, 2), "i": np.zeros(1, np.int32)}, "has shape [3, 2]"),
        ({"x": spread(6), "i": np.zeros(1, np.int32)}, "has shape [6]"),
        ({"x": np.zeros((2, 3), np.int32), "i": np.zeros(1, np.int32)}, "has type int32"),
        ({"x": spread(2, 3), "i": np.zeros(1, np.float32)}, "has type float32"),
        ({"x": spread(2, 3), "i": np.array([1 << 40])}, "does not fit in int32"),
        ({"x": np.array([["a"] * 3] * 2), "i": np.zeros(1, np.int32)}, "has type <U1"),
        ({"x": [[1.0], [2.0, 3.0]], "i": np.zeros(1, np.int32)}, "is ragged"),
    ],
)
def test_wrong_inputs_are_named(inputs: dict[str, Any], message: str, tmp_path: Path) -> None:
    given_ = {"x": spread(2, 3), "i": np.zeros(1, np.int32)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x, i: mb.gather(x=x, indices=i), given_))
    with pytest.raises(InputError) as error:
        program.run(inputs)
    assert message in str(error.value)
    with pytest.raises(InputError, match="mode 'fp8'"):
        program.run(given_, mode="fp8")


def test_an_index_outside_the_tensor_is_an_error_with_its_place(tmp_path: Path) -> None:
    given_ = {"x": spread(2, 3), "i": np.zeros(1, np.int32)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x, i: mb.gather(x=x, indices=i), given_))
    with pytest.raises(InputError, match=r"gather 'gather_0' \(operation \d+\) cannot be computed"):
        program.run({"x": spread(2, 3), "i": np.array([5], np.int32)})


def test_all_unknown_operations_are_listed_on_opening(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        pooled = mb.max_pool(x=mb.relu(x=x), kernel_sizes=[2, 2], pad_type="valid", name="pool")
        return mb.space_to_depth(x=pooled, block_size=2, name="blocks")

    path = save(tmp_path / "p.mlpackage", build, {"x": spread(1, 2, 8, 8)})
    with pytest.raises(InputError) as error:
        Program.open(path)
    text = str(error.value)
    assert "max_pool 'pool' (main, operation" in text
    assert "space_to_depth 'blocks' (main, operation" in text
    assert "relu" not in text


def test_many_unknown_operations_are_counted(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        for index in range(9):
            x = mb.max_pool(x=x, kernel_sizes=[1, 1], pad_type="valid", name=f"pool_{index}")
        return x

    path = save(tmp_path / "p.mlpackage", build, {"x": spread(1, 2, 8, 8)})
    with pytest.raises(InputError, match=r"max_pool 'pool_0'.*'pool_2' \(main, operation \d+\) … 9 in all; export"):
        Program.open(path)


@from_torch
def test_functions_of_one_package(tmp_path: Path) -> None:
    x = {"x": spread(2, 600)}
    weight = spread(600, 600, seed=1)
    for name, op in (("up", mb.exp), ("down", mb.abs)):
        save(tmp_path / f"{name}.mlpackage", lambda x, op=op: op(x=mb.linear(x=x, weight=weight)), x, 18)
    parts = ct.utils.MultiFunctionDescriptor()
    for name in ("up", "down"):
        parts.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    parts.default_function_name = "down"
    ct.utils.save_multifunction(parts, str(tmp_path / "both.mlpackage"))
    program = Program.open(tmp_path / "both.mlpackage")
    assert program.functions == ("down", "up")
    assert "abs" in program.op_counts()
    assert "exp" in program.op_counts("up")
    product = x["x"] @ weight.T
    np.testing.assert_allclose(only(program.run(x, "fp32")), np.abs(product), rtol=1e-5)
    np.testing.assert_allclose(only(program.run(x, "fp32", "up")), np.exp(product), rtol=1e-3)
    assert program.stored_bytes()["fp32"] == weight.nbytes + 600 * 4  # shared, so counted once; and a bias of zeros
    with pytest.raises(InputError, match="no function 'side'; it has down, up"):
        program.run(x, function="side")


@from_torch
@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (lambda: ct.EnumeratedShapes([(1, 4), (2, 4)]), [1, 2], [3]),
        (lambda: (ct.RangeDim(2, 5, default=2), 4), [2, 4, 5], [1, 6]),
    ],
    ids=["enumerated", "range"],
)
def test_flexible_shapes(shape: Any, good: list[int], bad: list[int], tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x * 2], 1).reshape(x.shape[0], 4, 2)

    traced = torch.jit.trace(Net(), torch.zeros(2, 4))
    kind = ct.TensorType("x", shape=shape(), dtype=np.float32)
    model = ct.convert(traced, inputs=[kind], minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    model.save(str(tmp_path / "p.mlpackage"))
    program = Program.open(tmp_path / "p.mlpackage")
    for rows in good:
        x = spread(rows, 4)
        want = np.concatenate([x, 2 * x], 1).reshape(rows, 4, 2)
        np.testing.assert_allclose(only(program.run({"x": x}, "fp32")), want)
    for rows in bad:
        with pytest.raises(InputError, match="has shape"):
            program.run({"x": spread(rows, 4)}, "fp32")


def test_types_are_reported(tmp_path: Path) -> None:
    given_ = {"x": half(*range(6)).reshape(2, 3), "i": np.zeros(1, np.int32)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x, i: mb.gather(x=x, indices=i), given_))
    assert {name: str(kind) for name, kind in program.inputs.items()} == {"x": "fp16 [2, 3]", "i": "int32 [1]"}
    assert [str(kind) for kind in program.outputs.values()] == ["fp16 [1, 3]"]
    assert program.specification_version == 8
    assert program.op_counts()["gather"] == 1


def test_a_constant_or_an_input_can_be_an_output(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.identity(x=x), mb.const(val=np.arange(3, dtype=np.float32), name="table")

    program = Program.open(save(tmp_path / "p.mlpackage", build, {"x": spread(2)}))
    assert program.run({"x": spread(2)}, "fp32")["table"].tolist() == [0, 1, 2]


SIZES = st.integers(1, 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_reshape_with_zeros_and_minus_one(shape: list[int], data: st.DataObject) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    target: list[int] = [data.draw(st.sampled_from([0, size])) for size in shape]
    target[data.draw(st.integers(0, len(shape) - 1))] = -1
    assert OPS["reshape"].function(x, np.array(target)).shape == tuple(shape)


@settings(max_examples=100, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=3), st.data())
def test_slice_by_index_equals_numpy(shape: list[int], data: st.DataObject) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    rank = len(shape)
    bound, mask = st.integers(-5, 5), st.lists(st.booleans(), min_size=rank, max_size=rank)
    begin = data.draw(st.lists(bound, min_size=rank, max_size=rank))
    end = data.draw(st.lists(bound, min_size=rank, max_size=rank))
    stride = data.draw(st.lists(st.sampled_from([-2, -1, 1, 2]), min_size=rank, max_size=rank))
    begins, ends = data.draw(mask), data.draw(mask)
    made = OPS["slice_by_index"].function(x, *map(np.array, (begin, end, stride, begins, ends)))
    index = tuple(slice(None if begins[i] else begin[i], None if ends[i] else end[i], stride[i]) for i in range(rank))
    np.testing.assert_array_equal(made, x[index])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.tuples(st.integers(3, 8), st.integers(3, 8)),
    st.tuples(SIZES, SIZES),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_conv_equals_torch(
    batch: int,
    groups: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pad: list[int],
) -> None:
    x, weight = spread(batch, 2 * groups, *size), spread(3 * groups, 2, *kernel, seed=1)
    padded = F.pad(torch.tensor(x), (pad[2], pad[3], pad[0], pad[1]))
    if any((k - 1) * d + 1 > s for k, d, s in zip(kernel, dilation, padded.shape[2:], strict=True)):
        return
    want = F.conv2d(padded, torch.tensor(weight), None, stride, 0, dilation, groups).numpy()
    given_ = (np.array(stride), "custom", np.array(pad), np.array(dilation), groups)
    made = OPS["conv"].function(x, weight, None, *given_)
    np.testing.assert_allclose(made, want, rtol=1e-5, atol=2e-5)


def test_importing_needs_no_toolchain() -> None:
    code = (
        "import sys\n"
        "import runtime_py.mil.__main__\n"
        "assert not {'coremltools', 'torch', 'google.protobuf'} & set(sys.modules), set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_opening_imports_neither_coremltools_nor_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "p.mlpackage", lambda x: mb.relu(x=x), {"x": spread(2)})
    code = (
        "import sys\n"
        "from runtime_py.mil import Program\n"
        f"Program.open({str(path)!r}).run({{'x': [1.0, -1.0]}})\n"
        "assert not {'coremltools', 'torch'} & set(sys.modules)\n"
        # The protobuf modules were imported alone; coremltools itself must still come in after them.
        "import coremltools\n"
        f"assert coremltools.models.MLModel({str(path)!r}, skip_model_load=True).get_spec().specificationVersion == 8\n"
        f"Program.open({str(path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_missing_toolchain_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(tmp_path / "p.mlpackage", lambda x: mb.relu(x=x), {"x": spread(2)})
    for name in [name for name in sys.modules if name.startswith(("coremltools", "_coreml_proto"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"coremltools is not installed.*lorarar-toolkit\[coreml\]"):
        Program.open(path)


def test_command_summarises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = spread(64, 64).astype(np.float16)
    x = {"x": np.zeros((2, 64), np.float16)}
    path = save(tmp_path / "p.mlpackage", lambda x: mb.linear(x=x, weight=weight), x, half=True)
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("specification version 8 (iOS 17 or newer)", "fp16 [2, 64]", "linear", "8,320"):
        assert part in text


def test_command_exits_with_one_sentence(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "runtime_py.mil", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: ")
    help_ = subprocess.run(
        [sys.executable, "-m", "runtime_py.mil", "--help"], cwd=ROOT, capture_output=True, check=False
    )
    assert help_.returncode == 0
