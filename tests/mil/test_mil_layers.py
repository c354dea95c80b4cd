"""Pools, recurrent layers, quantization and scattering of runtime_py.mil, against torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mil_builder import close, mb, save, spread
from mil_cases import IMAGE, Case, case_id, check, unary

from lorarar.errors import InputError
from runtime_py.mil import Program
from runtime_py.mil.ops import OPS

T = torch.Tensor
LINE, VOLUME = {"x": spread(2, 3, 11)}, {"x": spread(1, 2, 5, 6, 7)}
WINDOW = {"kernel_sizes": [3, 2], "strides": [2, 1], "pad_type": "custom", "pad": [1, 1, 1, 1]}
PADDED = {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1}


def same(function: Callable[..., T], outside: float) -> Callable[[T], T]:
    """Pad a 7×9 image for windows of 3×2 by steps of 2 as TensorFlow does: one row on either side, one column after."""
    return lambda x: function(F.pad(x, (0, 1, 1, 1), value=outside), (3, 2), 2)


POOLS = [
    unary("max_pool", lambda x: F.max_pool2d(x, **PADDED), IMAGE, **WINDOW),
    unary("max_pool", lambda x: F.max_pool1d(x, 4, 3), LINE, kernel_sizes=[4], strides=[3], pad_type="valid", note="1"),
    unary("max_pool", lambda x: F.max_pool3d(x, 2), VOLUME, kernel_sizes=[2] * 3, strides=[2] * 3, pad_type="valid"),
    unary(
        "max_pool",
        lambda x: F.max_pool2d(x, 4, 3, 1, ceil_mode=True),
        IMAGE,
        kernel_sizes=[4, 4],
        strides=[3, 3],
        pad_type="custom",
        pad=[1] * 4,
        ceil_mode=True,
        note="ceil",
    ),
    unary(
        "max_pool",
        same(F.max_pool2d, -torch.inf),
        IMAGE,
        kernel_sizes=[3, 2],
        strides=[2, 2],
        pad_type="same",
        note="same",
    ),
    unary("avg_pool", lambda x: F.avg_pool2d(x, **PADDED), IMAGE, **WINDOW),
    unary(
        "avg_pool",
        lambda x: F.avg_pool2d(x, **PADDED, count_include_pad=False),
        IMAGE,
        **WINDOW,
        exclude_padding_from_average=True,
        note="of the inside",
    ),
    unary(
        "avg_pool",
        lambda x: F.avg_pool2d(x, 4, 3, 1, ceil_mode=True),
        IMAGE,
        kernel_sizes=[4, 4],
        strides=[3, 3],
        pad_type="custom",
        pad=[1] * 4,
        ceil_mode=True,
        note="ceil",
    ),
    unary(
        "avg_pool", lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE, kernel_sizes=[7, 9], pad_type="valid", note="global"
    ),
    unary(
        "l2_pool",
        lambda x: F.lp_pool2d(x, 2.0, (3, 2), 2),
        IMAGE,
        kernel_sizes=[3, 2],
        strides=[2, 2],
        pad_type="valid",
    ),
]

DATA, ROWS = spread(4, 5, seed=1), np.array([2, 0, 2], np.int32)
PLACES = np.array([[3, 0, 1, 1, 0], [3, 2, 0, 3, 1]], np.int32)
POINTS = np.array([[0, 4], [3, 1], [0, 4]], np.int32)
INTO = {"data": DATA, "updates": spread(3, 5, seed=2)}
ALONG = {"data": DATA, "updates": spread(2, 5, seed=3)}
REDUCED = {"mul": "prod", "max": "amax", "min": "amin"}
SCATTERS = [
    Case(
        "scatter",
        lambda data, updates: mb.scatter(data=data, updates=updates, indices=ROWS, axis=0, mode="add"),
        lambda data, updates: data.index_add(0, torch.tensor(ROWS), updates),
        INTO,
    ),
    Case(
        "scatter",
        lambda data, updates: mb.scatter(data=data, updates=updates, indices=ROWS, axis=0, mode="sub"),
        lambda data, updates: data.index_add(0, torch.tensor(ROWS), -updates),
        INTO,
        note="sub",
    ),
    *(
        Case(
            "scatter_along_axis",
            lambda data, updates, mode=mode: mb.scatter_along_axis(
                data=data, updates=updates, indices=PLACES, axis=0, mode=mode
            ),
            lambda data, updates, how=how: data.scatter_reduce(0, torch.tensor(PLACES).long(), updates, how),
            ALONG,
            note=mode,
        )
        for mode, how in REDUCED.items()
    ),
    Case(
        "scatter_along_axis",
        lambda data, updates: mb.scatter_along_axis(
            data=data, updates=updates, indices=PLACES[:1], axis=0, mode="update"
        ),
        lambda data, updates: data.scatter(0, torch.tensor(PLACES[:1]).long(), updates),
        {"data": DATA, "updates": spread(1, 5)},
    ),
    Case(
        "scatter_nd",
        lambda data, updates: mb.scatter_nd(data=data, updates=updates, indices=POINTS, mode="add"),
        lambda data, updates: data.index_put(tuple(torch.tensor(POINTS).long().T), updates, accumulate=True),
        {"data": DATA, "updates": spread(3)},
    ),
    Case(
        "scatter_nd",
        lambda data, updates: mb.scatter_nd(data=data, updates=updates, indices=POINTS[:2], mode="div"),
        lambda data, updates: data.index_put(tuple(torch.tensor(POINTS[:2]).long().T), data[[0, 3], [4, 1]] / updates),
        {"data": DATA, "updates": spread(2)},
        note="div",
    ),
    Case(
        "slice_update",
        lambda x, u: mb.slice_update(
            x=x, update=u, begin=[0, 1, 0], end=[2, 3, 0], stride=[1, 1, 2], end_mask=[False, False, True]
        ),
        lambda x, u: x.slice_scatter(x[:, 1:3].slice_scatter(u, 2, 0, None, 2), 1, 1, 3),
        {"x": spread(2, 3, 4), "u": spread(2, 2, 2, seed=1)},
        18,
    ),
]

SEQUENCE, INPUTS, HIDDEN, BATCH = 5, 3, 4, 2


def weights(layer: torch.nn.RNNBase, gates: list[int], suffix: str = "") -> dict[str, np.ndarray]:
    """Return a torch layer's weights with its gates in MIL's order, both biases apart."""
    found = {}
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        parts = getattr(layer, f"{name}_l0{suffix}").detach().split(HIDDEN)
        found[name] = torch.cat([parts[gate] for gate in gates]).numpy()
    return found


def recurrent(op: str, direction: str, whole: bool) -> Case:
    torch.manual_seed(3)
    both = direction == "bidirectional"
    kinds = {"rnn": (torch.nn.RNN, [0]), "gru": (torch.nn.GRU, [0, 2, 1]), "lstm": (torch.nn.LSTM, [0, 1, 3, 2])}
    kind, order = kinds[op]
    layer = kind(INPUTS, HIDDEN, bidirectional=both)
    given = weights(layer, order)
    more: dict[str, Any] = {"direction": direction, "output_sequence": whole}
    if op == "gru":
        more |= {"bias": given["bias_hh"], "input_bias": given["bias_ih"], "reset_after": True}
    else:
        more["bias"] = given["bias_ih"] + given["bias_hh"]
    if both:
        back = weights(layer, order, "_reverse")
        more |= {"weight_ih_back": back["weight_ih"], "weight_hh_back": back["weight_hh"]}
        more["bias_back"] = back["bias_ih"] + back["bias_hh"]
    inputs = {"x": spread(SEQUENCE, BATCH, INPUTS), "h": spread(BATCH, HIDDEN * (1 + both), seed=1)}
    if op == "lstm":
        inputs["c"] = spread(BATCH, HIDDEN * (1 + both), seed=2)

    def build(x: Any, h: Any, c: Any = None) -> Any:
        states = {"x": x, "initial_h": h} | ({} if c is None else {"initial_c": c})
        return getattr(mb, op)(**states, weight_ih=given["weight_ih"], weight_hh=given["weight_hh"], **more)

    def sides(state: T) -> T:
        return torch.stack(state.split(HIDDEN, 1))

    def reference(x: T, *states: T) -> tuple[T, ...]:
        first = [sides(state) for state in states]
        with torch.no_grad():
            ordered = x.flip(0) if direction == "reverse" else x
            made, last = layer(ordered, tuple(first) if op == "lstm" else first[0])
        ends = last if isinstance(last, tuple) else (last,)
        final = [torch.cat(tuple(end), 1) for end in ends]
        return (made if whole else final[0][None], *final)

    return Case(op, build, reference, inputs, 18, f"{direction} {'whole' if whole else 'last'}")


RECURRENT = [
    recurrent(op, direction, whole)
    for op in ("rnn", "gru", "lstm")
    for direction in ("forward", "reverse", *(["bidirectional"] if op == "lstm" else []))
    for whole in (True, False)
]

SCALES, ZEROS = np.array([0.05, 0.02, 0.1], np.float32), np.array([3, -7, 0], np.int8)


def quantized(x: Any) -> Any:
    small = mb.quantize(input=x, scale=SCALES, zero_point=ZEROS, axis=1, output_dtype="int8")
    return mb.dequantize(input=small, scale=SCALES, zero_point=ZEROS, axis=1)


def fake(x: T) -> T:
    return torch.fake_quantize_per_channel_affine(x, torch.tensor(SCALES), torch.tensor(ZEROS).int(), 1, -128, 127)


QUANTIZED = [
    Case("quantize", quantized, fake, {"x": spread(2, 3, 4, scale=4)}),
    Case("dequantize", quantized, fake, {"x": spread(1, 3, 2)}),
]
CASES = [*POOLS, *SCATTERS, *RECURRENT, *QUANTIZED]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_operation_equals_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def far(x: Any) -> Any:
    roi = np.reshape([1, 1, 9, 9], (1, 1, 4, 1, 1)).astype(np.float32)
    return mb.crop_resize(x=mb.expand_dims(x=x, axes=[0, 1]), roi=roi, target_height=2, target_width=2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: mb.scatter(data=x, indices=[5], updates=np.ones((1, 4), np.float32)), "out of bounds"),
        (far, "outside its image"),
    ],
)
def test_what_the_spec_leaves_open_is_refused(build: Any, message: str, tmp_path: Path) -> None:
    x = {"x": spread(3, 4)}
    program = Program.open(save(tmp_path / "p.mlpackage", build, x, 15))
    with pytest.raises(InputError, match=message):
        program.run(x)


def test_indices_count_from_0_since_ios_17_and_from_the_end_too_before() -> None:
    scatter, data = OPS["scatter"].function, np.zeros((3, 2), np.float32)
    updates, index = np.ones((1, 2), np.float32), np.array([-1], np.int32)
    assert scatter(data, index, updates)[2].tolist() == [1, 1]
    for validated in (True, False):
        with pytest.raises(IndexError):
            scatter(data, index, updates, validate_indices=np.array(validated))


SHAPED = {  # sizes of the image, channels, filters, groups, kernel, and torch's ways
    "depthwise": ((9, 11), 6, 6, 6, (7, 5), {"padding": (3, 2)}),
    "depthwise, wide": ((9, 50), 6, 6, 6, (7, 5), {"padding": (3, 2)}),
    "depthwise by steps": ((9, 11), 6, 6, 6, (3, 3), {"stride": 2, "padding": 1}),
    "depthwise spread": ((12, 11), 6, 6, 6, (3, 3), {"dilation": (2, 3)}),
    "depthwise line": ((40,), 5, 5, 5, (4,), {"padding": 2}),
    "depthwise volume": ((5, 6, 7), 3, 3, 3, (2, 3, 2), {"padding": 1}),
    "shifted": ((9, 11), 16, 8, 1, (3, 3), {"padding": 1}),
    "shifted spread": ((12, 13), 20, 7, 1, (3, 2), {"dilation": (2, 3), "padding": (1, 2)}),
    "shifted line": ((70,), 17, 5, 1, (5,), {"padding": 2}),
    "shifted volume": ((5, 6, 7), 16, 4, 1, (2, 3, 2), {}),
    "points": ((6, 7), 8, 6, 1, (1, 1), {}),
    "points by steps, in groups": ((6, 7), 8, 6, 2, (1, 1), {"stride": (2, 3)}),
    "unfolded, in groups": ((9, 8), 32, 8, 2, (3, 3), {"padding": 1}),
    "unfolded by steps": ((9, 11), 16, 8, 1, (3, 3), {"stride": 2}),
}
WAYS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("blocks", ["whole", "row by row"])
@pytest.mark.parametrize("name", SHAPED)
def test_every_way_to_convolve_gives_torchs_result(name: str, blocks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, channels, filters, groups, kernel, ways = SHAPED[name]
    if blocks == "row by row":
        monkeypatch.setattr("runtime_py.mil.ops.linear._UNFOLDED", 1)
        monkeypatch.setattr("runtime_py.mil.ops.linear._IN_CACHE", 1)
    x, weight, bias = spread(2, channels, *sizes), spread(filters, channels // groups, *kernel, seed=1), spread(filters)
    wanted = WAYS[len(sizes)](torch.tensor(x), torch.tensor(weight), torch.tensor(bias), groups=groups, **ways)

    def each(option: str, otherwise: int) -> np.ndarray:
        value = ways.get(option, otherwise)
        return np.array(value if isinstance(value, tuple) else [value] * len(sizes))

    for with_bias in (True, False):
        given = {"bias": bias} if with_bias else {}
        made = OPS["conv"].function(
            x,
            weight,
            strides=each("stride", 1),
            pad_type="custom",
            pad=each("padding", 0).repeat(2),
            dilations=each("dilation", 1),
            groups=np.array(groups),
            **given,
        )
        close(made, wanted if with_bias else wanted - torch.tensor(bias).reshape(-1, *[1] * len(sizes)), 2e-6)
