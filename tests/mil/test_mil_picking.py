"""Activations, sampled images, orders and random numbers of runtime_py.mil, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mil_builder import close, mb, only, save, spread
from mil_cases import Case, case_id, check, unary

from runtime_py.mil import Program

T = torch.Tensor
CHANNELS = {"x": spread(2, 6, 4, 5)}
COORDINATES = (np.random.default_rng(0).random((2, 3, 4, 2)) * 2.6 - 1.3).astype(np.float32)
PICTURE = {"x": spread(2, 3, 5, 6)}
PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection"}
TURNED = np.array([[0.8, -0.3, 0.1, 0.4, 0.9, -0.2]], np.float32)


def resampled(padding: str, mode: str, corners: bool) -> Case:
    # What torch reflects about: the outermost pixels' centres, or with open corners their edges.
    ours = "symmetric" if padding == "reflection" and not corners else padding
    how = {"sampling_mode": mode, "padding_mode": ours, "padding_value": 0.0, "align_corners": corners}
    return Case(
        "resample",
        lambda x, c: mb.resample(x=x, coordinates=c, coordinates_mode="normalized_minus_one_to_one", **how),
        lambda x, c: F.grid_sample(x, c, mode, PADDING[padding], corners),
        {**PICTURE, "c": COORDINATES},
        note=f"{padding} {mode} {'corners' if corners else 'edges'}",
    )


SAMPLED = [
    *(resampled(pad, mode, on) for pad in PADDING for mode in ("bilinear", "nearest") for on in (True, False)),
    Case(
        "affine",
        lambda x: mb.affine(
            x=x,
            transform_matrix=TURNED,
            output_height=4,
            output_width=7,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        lambda x: F.grid_sample(
            x,
            F.affine_grid(torch.tensor(TURNED).reshape(1, 2, 3).repeat(2, 1, 1), [2, 3, 4, 7], True),
            align_corners=True,
        ),
        PICTURE,
    ),
    unary("crop", lambda x: x[..., 1:-2, 2:], PICTURE, crop_height=[1, 2], crop_width=[2, 0]),
]

BOXES = np.array([[0.1, 0.3, 1.0, 0.9], [0.5, 0.2, 0.7, 1.3]], np.float32)


def cropped(x: T) -> T:
    """Sample 3×2 points of each box from corner to corner; a point outside the image is -1."""
    down = torch.stack([torch.linspace(float(top), float(bottom), 3) for top, _, bottom, _ in BOXES]) * 2 - 1
    across = torch.stack([torch.linspace(float(left), float(right), 2) for _, left, _, right in BOXES]) * 2 - 1
    grid = torch.stack([across[:, None].expand(-1, 3, -1), down[:, :, None].expand(-1, -1, 2)], -1)
    found = F.grid_sample(x[[1, 0]], grid, padding_mode="border", align_corners=True)
    return torch.where((grid.abs() <= 1).all(-1)[:, None], found, torch.tensor(-1.0))


CROPS = [
    Case(
        "crop_resize",
        lambda x: mb.crop_resize(
            x=x,
            boxes=BOXES,
            box_indices=np.array([1, 0], np.int32),
            target_height=3,
            target_width=2,
            normalized_coordinates=True,
            sampling_mode="ALIGN_CORNERS",
            pad_value=-1.0,
        ),
        cropped,
        PICTURE,
    ),
]

TIED = {"x": np.array([[3, 1, 3, 2, 1], [0, 0, 5, 5, 5]], np.float32)}
MORE = [
    unary("thresholded_relu", lambda x: F.threshold(x, 0.5, 0.0), alpha=0.5),
    unary("clamped_relu", lambda x: torch.where(x >= 0, x, 0.3 * x).clamp(max=1.2), alpha=0.3, beta=1.2),
    unary("scaled_tanh", lambda x: 1.5 * torch.tanh(0.7 * x), alpha=1.5, beta=0.7),
    unary(
        "softplus_parametric",
        lambda x: torch.stack(
            [a * F.softplus(b * x[:, i]) for i, (a, b) in enumerate([(0.5, 2.0), (1.0, -1.0), (2.0, 0.3)])], 1
        ),
        PICTURE,
        alpha=[0.5, 1.0, 2.0],
        beta=[2.0, -1.0, 0.3],
    ),
    unary(
        "local_response_norm",
        lambda x: F.local_response_norm(x, 3, 0.5, 0.6, 2.0),
        CHANNELS,
        size=3,
        alpha=0.5,
        beta=0.6,
        k=2.0,
    ),
    unary("local_response_norm", lambda x: F.local_response_norm(x, 4, 0.5), CHANNELS, size=4, alpha=0.5, note="even"),
    unary("topk", lambda x: (x.topk(2, 1).values, x.topk(2, 1).indices.int()), k=2, axis=1),
    unary("topk", lambda x: (x.sort(2).values, x.sort(2).indices.int()), k=4, axis=-1, ascending=True, note="all"),
    unary("argsort", lambda x: x.argsort(dim=1, stable=True, descending=True).int(), TIED, axis=1),
    unary("argsort", lambda x: x.argsort(dim=1, stable=True).int(), TIED, axis=-1, ascending=True, note="ascending"),
    unary("non_zero", lambda x: x.nonzero().int(), {"x": np.array([[0, 2, 0], [-1, 0, 3]], np.float32)}),
    unary(
        "depth_to_space",
        lambda x: F.pixel_shuffle(x.reshape(2, 4, 2, 4, 5).transpose(1, 2).flatten(1, 2), 2),
        {"x": spread(2, 8, 4, 5)},
        block_size=2,
    ),
    unary(
        "space_to_depth",
        lambda x: F.pixel_unshuffle(x, 2).reshape(2, 3, 4, 2, 3).transpose(1, 2).flatten(1, 2),
        {"x": spread(2, 3, 4, 6)},
        block_size=2,
    ),
    unary("sliding_windows", lambda x: x.unfold(1, 2, 1).movedim(-1, 2), axis=1, size=2),
    unary("sliding_windows", lambda x: x.unfold(2, 3, 1), axis=-1, size=3, stride=1, note="last"),
    unary(
        "reverse_sequence",
        lambda x: torch.stack([x[0].flip(0), torch.cat([x[1, :2].flip(0), x[1, 2:]])]),
        lengths=[3, 2],
        seq_axis=1,
        batch_axis=0,
    ),
    unary(
        "reverse_sequence",
        lambda x: torch.stack([x[:, 0], x[:, 1].flip(0), x[:, 2]], 1),
        lengths=[1, 2, 0],
        seq_axis=0,
        batch_axis=1,
        note="turned",
    ),
    unary(
        "space_to_batch",
        lambda x: F.pad(x, (1, 1, 0, 1)).unfold(2, 2, 2).unfold(3, 4, 4).permute(4, 5, 0, 1, 2, 3).flatten(0, 2),
        {"x": spread(2, 3, 5, 6)},
        block_shape=[2, 4],
        paddings=[[0, 1], [1, 1]],
    ),
    unary(
        "batch_to_space",
        lambda x: F.pixel_shuffle(x.reshape(4, 2, 3, 2, 4).permute(1, 2, 0, 3, 4).flatten(1, 2), 2)[:, :, 1:, : 8 - 2],
        {"x": spread(8, 3, 2, 4)},
        block_shape=[2, 2],
        crops=[[1, 0], [0, 2]],
    ),
    Case(
        "reshape_like",
        lambda x, y: mb.reshape_like(x=x, ref_tensors=(y, y), begins=(0, 1), ends=(1, 0), end_masks=(False, True)),
        lambda x, y: x.reshape(3, 2, 4),
        {"x": spread(4, 6), "y": spread(3, 2, 4)},
    ),
]
CASES = [*SAMPLED, *CROPS, *MORE]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_operation_equals_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


def test_boxes_that_overlap_a_better_one_are_left_out(tmp_path: Path) -> None:
    """Against a plain loop over all boxes, for both layouts of the operation."""
    rng = np.random.default_rng(1)
    boxes = np.concatenate([rng.random((1, 30, 2)), 0.2 + 0.3 * rng.random((1, 30, 2))], 2).astype(np.float32)
    scores = rng.random((1, 30, 4)).astype(np.float32)
    low, high = boxes[0, :, :2] - boxes[0, :, 2:] / 2, boxes[0, :, :2] + boxes[0, :, 2:] / 2
    kept: list[int] = []
    for box in np.argsort(-scores[0].max(1)):
        common = [np.clip(np.minimum(high[box], high[k]) - np.maximum(low[box], low[k]), 0, None).prod() for k in kept]
        areas = [boxes[0, box, 2:].prod() + boxes[0, k, 2:].prod() for k in kept]
        if all(each <= 0.4 * (area - each) for each, area in zip(common, areas, strict=True)):
            kept.append(int(box))
    assert 5 < len(kept) < 25

    def new(b: Any, s: Any) -> Any:
        return mb.non_maximum_suppression(boxes=b, scores=s, iou_threshold=0.4, max_boxes=25)

    given = {"b": boxes.swapaxes(1, 2).copy(), "s": scores.swapaxes(1, 2).copy()}
    found = list(Program.open(save(tmp_path / "new.mlpackage", new, given, 17)).run(given, "fp32").values())
    assert found[2][0].tolist() == [*kept, *[-1] * (25 - len(kept))]
    close(found[0][0, :, : len(kept)], boxes[0, kept].T)
    assert not found[1][0, :, len(kept) :].any()

    def old(b: Any, s: Any) -> Any:
        return mb.non_maximum_suppression(boxes=b, scores=s, iou_threshold=0.4, score_threshold=0.8, max_boxes=25)

    given = {"b": boxes, "s": scores}
    outputs = list(Program.open(save(tmp_path / "old.mlpackage", old, given, 15)).run(given, "fp32").values())
    good = [box for box in kept if scores[0, box].max() >= 0.8]
    assert outputs[3].tolist() == [len(good)] and outputs[2][0, : len(good)].tolist() == good


@pytest.mark.parametrize(
    ("op", "more", "mean", "deviation"),
    [
        ("random_uniform", {"low": -1.0, "high": 3.0}, 1.0, 4 / 12**0.5),
        ("random_normal", {"mean": 2.0, "stddev": 0.5}, 2.0, 0.5),
        ("random_bernoulli", {"prob": 0.3}, 0.3, 0.21**0.5),
    ],
)
def test_random_numbers_have_their_distribution_and_their_seed(
    op: str, more: dict[str, Any], mean: float, deviation: float, tmp_path: Path
) -> None:
    def build(x: Any, seed: int = 5) -> Any:
        return mb.add(x=getattr(mb, op)(shape=[100, 200], seed=seed, **more), y=x)

    x = {"x": np.zeros(1, np.float32)}
    program = Program.open(save(tmp_path / "p.mlpackage", build, x))
    values = only(program.run(x, "fp32"))
    assert abs(values.mean() - mean) < 5 * deviation / 20_000**0.5 and abs(values.std() / deviation - 1) < 0.03
    np.testing.assert_array_equal(values, only(program.run(x, "fp32")))
    free = Program.open(save(tmp_path / "free.mlpackage", lambda x: build(x, -1), x))
    assert (only(free.run(x, "fp32")) != only(free.run(x, "fp32"))).any()


@pytest.mark.parametrize("mode", ["logits", "probs"])
def test_drawn_indices_come_as_often_as_they_should(mode: str, tmp_path: Path) -> None:
    shares = np.array([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5]], np.float32)
    x = {"x": shares if mode == "probs" else np.log(np.maximum(shares, 1e-30))}
    build = lambda x: mb.random_categorical(x=x, mode=mode, size=20_000, seed=1)  # noqa: E731
    drawn = only(Program.open(save(tmp_path / "p.mlpackage", build, x)).run(x, "fp32"))
    counts = np.stack([(drawn == index).mean(1) for index in range(3)], 1)
    np.testing.assert_allclose(counts, shares, atol=0.02)
    assert not (drawn[1] == 1).any()
