"""Order and choice: sorted indices, the largest values, boxes that do not overlap (MIL's tensor_operation)."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
Flag = np.ndarray | bool
Number = np.ndarray | float


def argsort(x: Array, axis: Array | int = -1, ascending: Flag = False) -> Array:
    """Return the indices that sort x along an axis; of equal values the first one comes first."""
    along = int(axis)
    if ascending:
        return np.argsort(x, along, kind="stable").astype(np.int32)
    # Sorted from behind and turned round: no value has to be negated, and equal ones stay in order.
    behind = np.argsort(np.flip(x, along), along, kind="stable")
    return (x.shape[along] - 1 - np.flip(behind, along)).astype(np.int32)


def topk(
    x: Array,
    k: Array | int = 1,
    axis: Array | int = -1,
    ascending: Flag = False,
    sort: Flag = True,
    return_indices: Flag = True,
    output_indices_dtype: str = "int32",
) -> tuple[Array, ...]:
    """Return the k largest values along an axis, or the smallest, and where they are; a k of -1 takes all."""
    along = int(axis)
    count = x.shape[along] if int(k) == -1 else int(k)
    if not 0 <= count <= x.shape[along]:
        raise ValueError(f"its k of {count} is more than the {x.shape[along]} values of its axis")
    places = argsort(x, along, ascending).take(range(count), along)
    values = np.take_along_axis(x, places, along)
    return (values, places.astype(output_indices_dtype)) if return_indices else (values,)


def non_zero(x: Array) -> Array:
    """Return the position of every element that is not 0, one a row."""
    return np.argwhere(x).astype(np.int32)


def non_maximum_suppression(
    boxes: Array,
    scores: Array,
    iou_threshold: Number,
    max_boxes: Array,
    score_threshold: Number | None = None,
    per_class_suppression: Flag = False,
) -> tuple[Array, ...]:
    """Choose boxes by descending score that overlap no chosen one by more than a share of their common area.

    Up to iOS 16 boxes are (n, B, 4) of scores (n, B, K), with a threshold of scores and the number chosen as a fourth
    result; from iOS 17 on they are (n, 4, B) and (n, K, B). Places that stay free hold zeros, and -1 as an index.
    """
    old = score_threshold is not None
    given = (boxes, scores) if old else (boxes.swapaxes(1, 2), scores.swapaxes(1, 2))
    most, least = int(max_boxes), -np.inf if score_threshold is None else float(score_threshold)
    chosen = [
        _chosen(*each, float(iou_threshold), least, most, bool(per_class_suppression))
        for each in zip(*given, strict=True)
    ]
    indices = np.full((len(chosen), most), -1, np.int32)
    picked = [np.zeros((len(chosen), most, part.shape[2]), part.dtype) for part in given]
    for row, places in enumerate(chosen):
        indices[row, : len(places)] = places
        for made, part in zip(picked, given, strict=True):
            made[row, : len(places)] = part[row, places]
    if not old:
        return picked[0].swapaxes(1, 2), picked[1].swapaxes(1, 2), indices
    return *picked, indices, np.array([len(places) for places in chosen], np.int32)


def _chosen(boxes: Array, scores: Array, overlap: float, least: float, most: int, per_class: bool) -> list[int]:
    best, kind = scores.max(1), scores.argmax(1)
    kept: list[int] = []
    for place in argsort(best).tolist():
        if len(kept) == most or best[place] < least:
            break
        rivals = [other for other in kept if not per_class or kind[other] == kind[place]]
        if not (_overlaps(boxes[place], boxes[rivals]) > overlap).any():
            kept.append(place)
    return kept


def _overlaps(box: Array, others: Array) -> Array:
    """Return the intersection over the union of a box with others, each (x, y, width, height) about its centre."""
    centre, size = box[:2].astype(np.float64), box[2:].astype(np.float64)
    low = np.maximum(centre - size / 2, others[:, :2] - others[:, 2:] / 2)
    high = np.minimum(centre + size / 2, others[:, :2] + others[:, 2:] / 2)
    common = np.maximum(high - low, 0).prod(1)
    union = size.prod() + others[:, 2:].prod(1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
