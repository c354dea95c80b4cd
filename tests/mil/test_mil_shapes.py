"""Operations of runtime_py.mil that move, choose and resample values, against torch or the spec's examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_mil_layers
import test_mil_ops
import test_mil_picking
import torch
import torch.nn.functional as F
from mil_builder import mb, spread
from mil_cases import IMAGE, XY, Case, case_id, check, unary

from runtime_py.mil.ops import OPS

T = torch.Tensor
GATHER = {"x": spread(4, 5, 3), "i": np.array([[3, 0], [1, 2]], np.int32)}
ALONG = {"x": spread(4, 5), "i": np.array([[3, 0, 1, 1, 0], [1, 2, 0, 3, 3]], np.int32)}


def mask_select(x: Any, y: Any) -> Any:
    return mb.select(cond=mb.greater(x=x, y=y), a=x, b=y)


def strict_corners(x: T) -> T:
    return F.interpolate(x, (10, 4), mode="bilinear", align_corners=True)


CASES = [
    unary("reshape", lambda x: x.reshape(2, 2, 6), shape=[0, -1, 6]),
    unary("reshape", lambda x: x.reshape(-1), shape=[-1], note="flat"),
    unary("reshape", lambda x: x.reshape(1, 2, 3, 4), shape=[1, 0, -1, 0], note="from the end"),
    unary("reshape", lambda x: x.reshape(6, 4), shape=[-1, 0], note="fewer axes"),
    unary("transpose", lambda x: x.permute(2, 0, 1), perm=[-1, 0, 1]),
    unary("expand_dims", lambda x: x[None, :, :, None], axes=[0, -2]),
    unary("squeeze", lambda x: x.squeeze(0).squeeze(-1), {"x": spread(1, 3, 1, 2, 1)}, axes=[0, -1]),
    unary("squeeze", torch.squeeze, {"x": spread(1, 3, 1, 2, 1)}, note="all"),
    unary(
        "slice_by_index",
        lambda x: x[1, 0:3:2, 1:],
        begin=[1, 0, 1],
        end=[0, 3, 0],
        stride=[1, 2, 1],
        end_mask=[False, False, True],
        squeeze_mask=[True, False, False],
    ),
    unary(
        "slice_by_index",
        lambda x: x[:1].flip(2)[:, 1:-1],
        begin=[5, 1, -1],
        end=[1, -1, 0],
        stride=[1, 1, -1],
        begin_mask=[True, False, False],
        end_mask=[False, False, True],
        note="negative",
    ),
    unary("slice_by_index", lambda x: x[1, 2, 3], begin=[1, 2, -1], end=[0, 0, 0], squeeze_mask=[True] * 3, note="one"),
    unary("slice_by_size", lambda x: x[:, 1:, 2:3], begin=[0, 1, -2], size=[2, -1, 1]),
    Case(
        "split",
        lambda x: mb.split(x=x, num_splits=2, axis=2),
        lambda x: x.split(2, 2),
    ),
    Case("split", lambda x: mb.split(x=x, split_sizes=[1, 3], axis=-1), lambda x: x.split([1, 3], 2), note="sizes"),
    Case(
        "concat",
        lambda x, y: mb.concat(values=(x, y), axis=1),
        lambda x, y: torch.cat([x, y], 1),
        {"x": spread(2, 3, 4), "y": spread(2, 1, 4)},
    ),
    Case(
        "concat",
        lambda x, y: mb.concat(values=(x, y, x), axis=-2, interleave=True),
        lambda x, y: torch.stack([x, y, x], 2).reshape(2, 9, 4),
        {"x": spread(2, 3, 4), "y": spread(2, 3, 4, seed=1)},
        note="interleaved",
    ),
    Case(
        "stack",
        lambda x, y: mb.stack(values=(x, y), axis=-1),
        lambda x, y: torch.stack([x, y], -1),
        {"x": spread(2, 3), "y": spread(2, 3, seed=1)},
    ),
    unary("tile", lambda x: x.repeat(2, 1, 3), reps=[2, 1, 3]),
    unary("reverse", lambda x: x.flip(0, 2), axes=[0, -1]),
    unary("identity", lambda x: x),
    Case("select", mask_select, torch.maximum, XY),
    Case("gather", lambda x, i: mb.gather(x=x, indices=i, axis=1), lambda x, i: x[:, i.long()], GATHER),
    Case(
        "gather",
        lambda x, i: mb.gather(x=x, indices=i, axis=-1, batch_dims=1),
        lambda x, i: torch.stack([x[0][:, i[0].long()], x[1][:, i[1].long()]]),
        {"x": spread(2, 5, 4), "i": GATHER["i"]},
        note="batch",
    ),
    Case(
        "gather",
        lambda x: mb.gather(x=x, indices=np.int32(-2), axis=0),
        lambda x: x[-2],
        {"x": spread(4, 5)},
        ios=16,
        note="scalar",
    ),
    Case(
        "gather_along_axis",
        lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=0),
        lambda x, i: x.gather(0, i.long()),
        ALONG,
    ),
    Case(
        "gather_nd", lambda x, i: mb.gather_nd(x=x, indices=i), lambda x, i: x[i[:, 0].long(), i[:, 1].long()], GATHER
    ),
    Case(
        "gather_nd",
        lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
        lambda x, i: torch.stack([x[0, i[0, 0], i[0, 1]], x[1, i[1, 0], i[1, 1]]]),
        {"x": spread(2, 4, 3, 5), "i": np.array([[3, 0], [1, 2]], np.int32)},
        note="batch",
    ),
    Case(
        "one_hot",
        lambda i: mb.one_hot(indices=i, one_hot_vector_size=4, axis=1, on_value=2, off_value=-1),
        lambda i: F.one_hot(i.long(), 4).transpose(1, 2).int() * 3 - 1,
        {"i": GATHER["i"]},
    ),
    unary("band_part", torch.triu, {"x": spread(2, 5, 6)}, lower=0, upper=-1),
    unary("band_part", lambda x: x.tril(1).triu(-2), {"x": spread(2, 5, 6)}, lower=2, upper=1, note="band"),
    Case("fill", lambda x: mb.fill(shape=mb.shape(x=x), value=1.5), lambda x: torch.full_like(x, 1.5)),
    Case("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=1.5), lambda x: torch.full_like(x, 1.5), ios=16),
    Case("shape", lambda x: mb.shape(x=x), lambda x: torch.tensor(x.shape, dtype=torch.int32)),
    Case(
        "range_1d",
        lambda i: mb.range_1d(start=0, end=mb.squeeze(x=i), step=3),
        lambda i: torch.arange(0, 10, 3).int(),
        {"i": np.array([10], np.int32)},
    ),
    unary("pad", lambda x: F.pad(x, (1, 2, 3, 0), value=7), pad=[3, 0, 1, 2], mode="constant", constant_val=7.0),
    unary("pad", lambda x: F.pad(x, (1, 2), mode="reflect"), pad=[1, 2], mode="reflect", note="reflect"),
    unary("pad", lambda x: F.pad(x, (1, 2), mode="replicate"), pad=[1, 2], mode="replicate", note="replicate"),
    unary("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), {"x": spread(2, 8, 3, 5)}, upscale_factor=2),
    unary(
        "pixel_unshuffle",
        lambda x: F.pixel_unshuffle(x, 2),
        {"x": spread(2, 2, 6, 4)},
        downscale_factor=np.uint32(2),
        ios=16,
    ),
    unary("flatten2d", lambda x: x.reshape(6, 4), axis=2),
    unary(
        "upsample_nearest_neighbor",
        lambda x: F.interpolate(x, scale_factor=(2, 3)),
        IMAGE,
        scale_factor_height=2,
        scale_factor_width=3,
    ),
    unary(
        "resize_nearest_neighbor",
        lambda x: F.interpolate(x, (10, 4)),
        IMAGE,
        target_size_height=10,
        target_size_width=4,
    ),
    unary(
        "upsample_bilinear",
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=False),
        IMAGE,
        scale_factor_height=2,
        scale_factor_width=3,
        align_corners=False,
    ),
    unary(
        "upsample_bilinear",
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear", align_corners=True),
        IMAGE,
        scale_factor_height=2,
        scale_factor_width=3,
        align_corners=True,
        note="corners",
    ),
    unary(
        "resize_bilinear",
        strict_corners,
        IMAGE,
        target_size_height=10,
        target_size_width=4,
        sampling_mode="STRICT_ALIGN_CORNERS",
    ),
    unary(
        "resize",
        lambda x: F.interpolate(x, (10, 9), mode="bilinear", align_corners=False),
        IMAGE,
        shape=[1, 10, 0],
        resized_dims=np.uint32(2),
        sampling_mode="UNALIGN_CORNERS",
    ),
]

# The examples that the spec prints for resize_bilinear: two pixels, 0 and 1, to five and six.
SAMPLED = {
    ("UNALIGN_CORNERS", 5): [0, 0.1, 0.5, 0.9, 1],
    ("ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
    ("DEFAULT", 5): [0, 0.4, 0.8, 1, 1],
    ("OFFSET_CORNERS", 5): [0.1, 0.3, 0.5, 0.7, 0.9],
    ("STRICT_ALIGN_CORNERS", 6): [0, 0.2, 0.4, 0.6, 0.8, 1],
    ("DEFAULT", 6): [0, 1 / 3, 2 / 3, 1, 1, 1],
    ("ALIGN_CORNERS", 1): [0.5],
}


NEAREST = {
    ("DEFAULT", 3): [-6, 9, 9],  # coremltools' own test of iOS 17's resize
    ("STRICT_ALIGN_CORNERS", 5): [-6, -6, 9, 9, 9],
    ("UNALIGN_CORNERS", 4): [-6, -6, 9, 9],
    ("OFFSET_CORNERS", 4): [-6, -6, 9, 9],
}


@pytest.mark.parametrize(("mode", "size"), NEAREST)
def test_the_nearest_pixel_is_the_one_that_the_sampling_mode_points_at(mode: str, size: int) -> None:
    x, count = np.array([[-6.0, 9.0]], np.float32), np.array(1)
    found = OPS["resize"].function(x, np.array([size]), count, "NEAREST_NEIGHBOR", mode)
    assert found[0].tolist() == NEAREST[mode, size]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_operation_equals_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize(("mode", "size"), SAMPLED)
def test_sampling_modes_give_the_examples_of_the_spec(mode: str, size: int) -> None:
    x = np.array([[[0, 1]]], np.float32)
    made = OPS["resize_bilinear"].function(x, 1, size, mode)
    np.testing.assert_allclose(made[0, 0], SAMPLED[mode, size], atol=1e-6)


def test_every_operation_has_a_case() -> None:
    compressed = {name for name in OPS if name.startswith("constexpr_")}
    modules = (test_mil_layers, test_mil_ops, test_mil_picking)
    cases = [*CASES, *(case for module in modules for case in module.CASES)]
    of_programs = {"make_list", "classify", *(name for name in OPS if name.startswith(("list_", "random_")))}
    of_programs |= {"while_loop", "cond", "read_state", "write_state", "non_maximum_suppression"}
    # Each of these has tests of its own.
    assert OPS.keys() - {case.op for case in cases} == compressed | of_programs
