"""Running whole programs with runtime_py.mil: memory, inputs, functions, shapes, the command."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mil_builder import changed, ct, half, mb, only, save, spread

from lorarar.errors import InputError
from runtime_py.mil import Program
from runtime_py.mil.graph import operations
from runtime_py.mil.ops import OPS
from runtime_py.mil.summary import summarise

ROOT = Path(__file__).resolve().parents[2]

# Converting from torch meets deprecated names inside coremltools and torch.export, none of which this project calls.
from_torch = pytest.mark.filterwarnings("ignore")


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
        ({"x": np.zeros((2, 3), np.complex64), "i": np.zeros(1, np.int32)}, "has type complex64"),
        ({"x": spread(2, 3), "i": np.full(1, np.nan, np.float32)}, "does not fit in int32"),
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


def in_a_branch(x: Any) -> Any:
    """A relu, a branch with an exp and a square in it, and many tanhs."""
    chosen = mb.cond(
        pred=mb.less(x=mb.reduce_sum(x=mb.relu(x=x), keep_dims=False), y=np.float32(0)),
        _true_fn=lambda: mb.exp(x=x, name="inner"),
        _false_fn=lambda: mb.square(x=x),
    )
    for index in range(9):
        chosen = mb.tanh(x=chosen, name=f"tanh_{index}")
    return chosen


def test_all_unknown_operations_are_listed_on_opening(tmp_path: Path) -> None:
    """Those of nested blocks too; of many of a kind the first ones, and their number."""

    def rename(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        for operation in operations(block):
            if operation.type in ("exp", "tanh"):
                operation.type = f"future_{operation.type}"

    path = save(tmp_path / "p.mlpackage", in_a_branch, {"x": spread(2)})
    with pytest.raises(InputError) as error:
        Program.open(changed(rename, path, tmp_path / "q.mlpackage"))
    text = str(error.value)
    assert "future_exp 'inner' (main, operation" in text
    assert "future_tanh 'tanh_0' (main" in text and "'tanh_2' (main" in text and "… 9 in all; export" in text
    assert "relu" not in text and "square" not in text and "tanh_3" not in text


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
    stored = summarise(tmp_path / "both.mlpackage").stored["fp32"]
    assert stored == weight.nbytes + 600 * 4  # shared, so counted once; and a bias of zeros
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


@settings(max_examples=60)
@given(st.lists(SIZES, min_size=1, max_size=4), st.data())
def test_reshape_with_zeros_and_minus_one(shape: list[int], data: st.DataObject) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    target: list[int] = [data.draw(st.sampled_from([0, size])) for size in shape]
    target[data.draw(st.integers(0, len(shape) - 1))] = -1
    assert OPS["reshape"].function(x, np.array(target)).shape == tuple(shape)


@settings(max_examples=100)
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
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
        # The protobuf modules were imported alone; coremltools itself must still come in after them, and alone too.
        "from importlib.util import find_spec\n"
        "from lorarar.toolchains import import_coremltools\n"
        "coremltools = import_coremltools()\n"
        "assert not {'sklearn', 'executorch'} & set(sys.modules)\n"
        "assert find_spec('sklearn') and find_spec('executorch')\n"
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
