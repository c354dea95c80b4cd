"""Elementwise operations, reductions, norms, products and convolutions of runtime_py.mil against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mil_builder import close, mb, spread
from mil_cases import IMAGE, INTS, POSITIVE, UNIT, Case, binary, case_id, check, compare, f32, logical, unary

from runtime_py.mil.ops import OPS
from runtime_py.mil.ops.linear import einsum

T = torch.Tensor


def conv_case(
    note: str, torch_pad: Any, groups: int = 1, shape: tuple[int, ...] = (2, 6, 7, 9), **options: Any
) -> Case:
    weight = spread(8, shape[1] // groups, *[3] * (len(shape) - 2), seed=3)
    bias = spread(8, seed=4)
    run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[len(shape)]

    def reference(x: T) -> T:
        padded = F.pad(x, torch_pad)
        stride, dilation = options.get("strides", 1), options.get("dilations", 1)
        return run(padded, torch.tensor(weight), torch.tensor(bias), stride, 0, dilation, groups)

    return Case(
        "conv",
        lambda x: mb.conv(x=x, weight=weight, bias=bias, groups=groups, **options),
        reference,
        {"x": spread(*shape)},
        note=note,
    )


def deconv_case(note: str, groups: int = 1, output_padding: Any = 0, **options: Any) -> Case:
    weight = spread(6, 4 // groups, 3, 2, seed=3)
    bias = spread(4, seed=4)
    pad = options.get("pad", [0, 0, 0, 0])

    def reference(x: T) -> T:
        return F.conv_transpose2d(
            x,
            torch.tensor(weight),
            torch.tensor(bias),
            options.get("strides", 1),
            (pad[0], pad[2]),
            output_padding,
            groups,
            options.get("dilations", 1),
        )

    return Case(
        "conv_transpose",
        lambda x: mb.conv_transpose(x=x, weight=weight, bias=bias, groups=groups, **options),
        reference,
        {"x": spread(2, 6, 5, 4)},
        note=note,
    )


LINEAR_WEIGHT, LINEAR_BIAS = spread(7, 4, seed=5), spread(7, seed=6)
NORM = {"gamma": spread(4, seed=7), "beta": spread(4, seed=8)}
CHANNEL = {"gamma": spread(6, seed=7), "beta": spread(6, seed=8)}
QKV = {"q": spread(2, 3, 5, 8), "k": spread(2, 3, 6, 8, seed=1), "v": spread(2, 3, 6, 4, seed=2)}
MASK = spread(5, 6, seed=9)


def attention(q: Any, k: Any, v: Any, **mask: Any) -> Any:
    return mb.scaled_dot_product_attention(query=q, key=k, value=v, **mask)


def bool_attention(q: Any, k: Any, v: Any) -> Any:
    return attention(q, k, v, attn_mask=mb.greater(x=mb.const(val=MASK), y=np.float32(0)))


def layer_norm_reference(x: T) -> T:
    return F.layer_norm(x, [4], torch.tensor(NORM["gamma"]), torch.tensor(NORM["beta"]), 1e-3)


CASES = [
    unary("abs", torch.abs),
    unary("acos", torch.acos, UNIT),
    unary("asin", torch.asin, UNIT),
    unary("atan", torch.atan),
    unary("atanh", torch.atanh, {"x": UNIT["x"] * np.float32(0.9)}),
    unary("cast", lambda x: x.to(torch.int32), dtype="int32", note="truncates"),
    unary("ceil", torch.ceil),
    unary("clip", lambda x: x.clip(-1, 0.5), alpha=-1.0, beta=0.5),
    unary("cos", torch.cos),
    unary("cosh", torch.cosh),
    unary("elu", lambda x: F.elu(x, 0.7), alpha=0.7),
    unary("erf", torch.erf),
    unary("exp", torch.exp),
    unary("exp2", torch.exp2),
    unary("floor", torch.floor),
    unary("gelu", F.gelu, {"x": np.linspace(-9, 9, 4001, dtype=np.float32)}, mode="EXACT"),
    unary("gelu", lambda x: F.gelu(x, approximate="tanh"), mode="TANH_APPROXIMATION", note="tanh"),
    unary("gelu", lambda x: x * torch.sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION", note="sigmoid"),
    unary("inverse", lambda x: 1 / (x + 0.5), POSITIVE, epsilon=0.5),
    unary("leaky_relu", lambda x: F.leaky_relu(x, 0.3), alpha=0.3),
    unary("linear_activation", lambda x: 3 * x - 2, alpha=3.0, beta=-2.0),
    unary("log", lambda x: torch.log(x + 0.25), POSITIVE, epsilon=0.25),
    Case(
        "logical_not",
        lambda x: mb.cast(x=mb.logical_not(x=mb.greater(x=x, y=np.float32(0))), dtype="int32"),
        lambda x: (x <= 0).int(),
    ),
    unary("prelu", lambda x: F.prelu(x, torch.arange(6) / 10), IMAGE, alpha=np.arange(6, dtype=np.float32) / 10),
    unary("relu", F.relu),
    unary("relu6", F.relu6, {"x": spread(50, scale=8)}),
    unary("round", torch.round, {"x": f32(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49, 3.7)}),
    unary("rsqrt", lambda x: torch.rsqrt(x + 0.25), POSITIVE, epsilon=0.25),
    unary("sigmoid", torch.sigmoid, {"x": spread(50, scale=60)}),
    unary("sigmoid_hard", lambda x: (0.3 * x + 0.4).clip(0, 1), alpha=0.3, beta=0.4),
    unary("sign", torch.sign),
    unary("silu", F.silu, {"x": spread(50, scale=60)}),
    unary("sin", torch.sin),
    unary("sinh", torch.sinh),
    unary("softplus", F.softplus),
    unary("softsign", F.softsign),
    unary("sqrt", torch.sqrt, POSITIVE),
    unary("square", torch.square),
    unary("tan", torch.tan, UNIT),
    unary("tanh", torch.tanh),
    unary("threshold", lambda x: x.clip(min=0.2), alpha=0.2),
    binary("add", torch.add),
    binary("sub", torch.sub),
    binary("mul", torch.mul),
    binary("real_div", torch.div),
    binary("maximum", torch.maximum),
    binary("minimum", torch.minimum),
    binary("floor_div", lambda x, y: torch.div(x, y, rounding_mode="floor")),
    binary("floor_div", lambda x, y: torch.div(x, y, rounding_mode="floor"), INTS),
    binary("mod", torch.remainder, INTS),
    binary("add", torch.add, INTS),
    binary("pow", torch.pow, {"x": POSITIVE["x"], "y": spread(4)}),
    compare("equal", lambda x, y: (x == y).int()),
    compare("not_equal", lambda x, y: (x != y).int()),
    compare("greater", lambda x, y: (x > y).int()),
    compare("greater_equal", lambda x, y: (x >= y).int()),
    compare("less", lambda x, y: (x < y).int()),
    compare("less_equal", lambda x, y: (x <= y).int()),
    logical("logical_and", torch.logical_and),
    logical("logical_or", torch.logical_or),
    logical("logical_xor", torch.logical_xor),
    unary("softmax", lambda x: x.softmax(-1), axis=-1),
    unary("softmax", lambda x: x.softmax(1), {"x": spread(2, 3, 4, scale=100)}, axis=1, note="middle"),
    unary("layer_norm", layer_norm_reference, axes=[-1], epsilon=np.float32(1e-3), **NORM),
    unary("layer_norm", lambda x: F.layer_norm(x, [3, 4]), axes=[1, 2], note="two axes, no affine"),
    unary(
        "layer_norm",
        lambda x: F.layer_norm(x.transpose(0, 1), [2, 4], torch.tensor(spread(2, 4, seed=2))).transpose(0, 1),
        axes=[0, 2],
        gamma=spread(2, 4, seed=2),
        beta=np.zeros((2, 4), np.float32),
        note="axes apart",
    ),
    unary(
        "instance_norm",
        lambda x: F.instance_norm(x, weight=torch.tensor(CHANNEL["gamma"]), bias=torch.tensor(CHANNEL["beta"])),
        IMAGE,
        **CHANNEL,
    ),
    unary(
        "batch_norm",
        lambda x: F.batch_norm(
            x,
            torch.tensor(spread(6, seed=1)),
            torch.tensor(np.abs(spread(6, seed=2))),
            torch.tensor(CHANNEL["gamma"]),
            torch.tensor(CHANNEL["beta"]),
            eps=0.01,
        ),
        IMAGE,
        mean=spread(6, seed=1),
        variance=np.abs(spread(6, seed=2)),
        epsilon=np.float32(0.01),
        **CHANNEL,
    ),
    unary("l2_norm", lambda x: x / (x.square().sum((1, 2, 3), True) + 0.01).sqrt(), IMAGE, epsilon=np.float32(0.01)),
    unary("reduce_mean", lambda x: x.mean((0, 2)), axes=[0, -1], keep_dims=False),
    unary("reduce_mean", torch.mean, note="all axes"),
    unary("reduce_sum", lambda x: x.sum(1, keepdim=True), axes=[1], keep_dims=True),
    unary("reduce_sum", lambda x: x.sum(1, dtype=torch.int32), {"x": INTS["x"]}, axes=[1], note="int"),
    unary("reduce_max", lambda x: x.amax((1, 2)), axes=[1, 2]),
    unary("reduce_min", lambda x: x.amin(0), axes=[0]),
    unary("reduce_prod", lambda x: x.prod(2), axes=[2]),
    unary("reduce_l1_norm", lambda x: x.abs().sum(1), axes=[1]),
    unary("reduce_l2_norm", lambda x: x.norm(dim=1), axes=[1]),
    unary("reduce_log_sum", lambda x: x.sum(1).log(), POSITIVE, axes=[1]),
    unary("reduce_log_sum_exp", lambda x: x.logsumexp(1), {"x": spread(2, 3, 4, scale=90)}, axes=[1]),
    unary("reduce_log_sum_exp", lambda x: x.logsumexp(1, True), axes=[1], keep_dims=True, note="kept"),
    unary("reduce_sum_square", lambda x: x.square().sum(1), axes=[1]),
    unary("reduce_argmax", lambda x: x.argmax(1).int(), axis=1),
    unary("reduce_argmin", lambda x: x.argmin(2, True).int(), axis=-1, keep_dims=True),
    unary("cumsum", lambda x: x.cumsum(1), axis=1),
    unary("cumsum", lambda x: x.flip(2).cumsum(2).flip(2), axis=2, reverse=True, note="reverse"),
    unary("cumsum", lambda x: x.cumsum(1) - x, {"x": INTS["x"]}, axis=1, exclusive=True, note="exclusive"),
    Case(
        "matmul",
        lambda x, y: mb.matmul(x=x, y=y),
        torch.matmul,
        {"x": spread(5, 1, 3, 4), "y": spread(2, 4, 6, seed=1)},
        note="broadcast",
    ),
    Case(
        "matmul",
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        lambda x, y: x.mT @ y.mT,
        {"x": spread(2, 4, 3), "y": spread(2, 6, 4, seed=1)},
        note="transposed",
    ),
    Case("matmul", lambda x, y: mb.matmul(x=x, y=y), torch.matmul, {"x": spread(4), "y": spread(4, 6)}, note="vector"),
    Case(
        "matmul",
        lambda x, y: mb.matmul(x=mb.transpose(x=x, perm=[0, 2, 1, 3]), y=y, transpose_y=True),
        lambda x, y: x.transpose(1, 2) @ y.mT,
        {"x": spread(2, 5, 3, 4), "y": spread(2, 3, 6, 4, seed=1)},
        note="of a view",
    ),
    unary(
        "linear",
        lambda x: F.linear(x, torch.tensor(LINEAR_WEIGHT), torch.tensor(LINEAR_BIAS)),
        weight=LINEAR_WEIGHT,
        bias=LINEAR_BIAS,
    ),
    unary("linear", lambda x: F.linear(x, torch.tensor(LINEAR_WEIGHT)), {"x": spread(4)}, weight=LINEAR_WEIGHT),
    Case(
        "einsum",
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y),
        {"x": spread(2, 3, 4, 5), "y": spread(2, 5, 4, 6, seed=1)},
    ),
    Case("scaled_dot_product_attention", attention, F.scaled_dot_product_attention, QKV, ios=18),
    Case(
        "scaled_dot_product_attention",
        lambda q, k, v: attention(q, k, v, attn_mask=MASK),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.tensor(MASK)),
        QKV,
        ios=18,
        note="float mask",
    ),
    Case(
        "scaled_dot_product_attention",
        bool_attention,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.tensor(MASK > 0)),
        QKV,
        ios=18,
        note="bool mask",
    ),
    conv_case("valid", (0, 0), pad_type="valid"),
    conv_case("custom", (1, 0, 2, 1), pad_type="custom", pad=[2, 1, 1, 0]),
    conv_case("same strided", (1, 1, 1, 1), pad_type="same", strides=[2, 2]),
    conv_case("same dilated", (2, 2, 3, 3), pad_type="same", dilations=[3, 2]),
    conv_case("same uneven", (0, 1, 1, 1), shape=(2, 6, 7, 8), pad_type="same", strides=[2, 2]),
    conv_case("same_lower uneven", (1, 0, 1, 1), shape=(2, 6, 7, 8), pad_type="same_lower", strides=[2, 2]),
    conv_case("groups", (0, 0), groups=2, pad_type="valid"),
    conv_case("depthwise", (0, 0), groups=4, shape=(1, 4, 6, 5), pad_type="valid", strides=[2, 1]),
    conv_case("1d", (1, 1), shape=(2, 6, 9), pad_type="custom", pad=[1, 1]),
    conv_case("3d", (0, 0), shape=(1, 2, 5, 4, 6), pad_type="valid", strides=[2, 1, 1]),
    deconv_case("plain", pad_type="valid"),
    deconv_case("strided", pad_type="custom", pad=[1, 1, 0, 0], strides=[2, 3]),
    deconv_case("dilated groups", groups=2, pad_type="valid", dilations=[2, 1]),
    deconv_case(
        "output shape", (1), (1, 2), pad_type="custom", pad=[1, 1, 0, 0], strides=[2, 3], output_shape=[2, 4, 10, 13]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_operation_equals_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_exact_gelu_keeps_its_digits_in_the_tail() -> None:
    x = np.linspace(-5, 0, 2001).astype(np.float32)
    exact = (x.astype(np.float64) * torch.special.ndtr(torch.tensor(x, dtype=torch.float64)).numpy())[:-1]
    made = OPS["gelu"].function(x)[:-1]
    assert np.abs(made / exact - 1).max() < 1e-6


@pytest.mark.parametrize(
    "equation",
    [
        *("bchq,bkhc->bkhq", "bkhq,bchk->bchq", "nchw,nwhu->nchu", "abc,cb->a", "ab,cd->dbca", "ab,ab->"),
        *("aab,bc->ac", "ab,bc->c", "ab,bc,cd->ad"),
    ],
)
def test_einsum_equals_numpy(equation: str) -> None:
    sizes = dict(zip("abchknqduw", range(2, 12), strict=True)) | {"h": 1}
    names = equation.partition("->")[0].split(",")
    values = [spread(*(sizes[label] for label in labels), seed=seed) for seed, labels in enumerate(names)]
    close(einsum(values, equation), np.einsum(equation, *(value.astype(np.float64) for value in values)), 1e-5)


@pytest.mark.parametrize("shapes", [((5, 4, 2), (3, 1, 2)), ((5, 1, 2), (3, 4, 2)), ((5, 4, 2), (3, 4, 1))])
def test_an_axis_of_one_is_repeated_by_einsum(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """As coremltools' own test has it: "vnm,mno->vno" with a second operand of (3, 1, 2)."""
    x, y = (spread(*shape, seed=seed) for seed, shape in enumerate(shapes))
    close(einsum([x, y], "vnm,onm->vno"), (x[:, :, None] * y.swapaxes(0, 1)[None]).sum(-1), 1e-5)


def test_sums_keep_small_terms() -> None:
    x = np.full((1 << 20, 2), 0.1, np.float32)
    for op, want in (("reduce_sum", (1 << 20) * 0.1), ("reduce_mean", 0.1)):
        made = OPS[op].function(x, axes=np.array([0]))
        np.testing.assert_allclose(made, want, rtol=1e-7)
