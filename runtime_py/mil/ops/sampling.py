"""Values of images at given points, and their crops (MIL's image_resizing: resample, affine, crop, crop_resize)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime_py.mil.ops.places import points

Array = np.ndarray
Flag = np.ndarray | bool
Number = np.ndarray | float


def resample(
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Number,
    coordinates_mode: str,
    align_corners: Flag,
) -> Array:
    """Return (B, C, H, W) at coordinates of (B, H', W', 2), each of them (across, down)."""
    sizes = x.shape[-1], x.shape[-2]
    across, down = (
        _pixels(coordinates[..., axis].astype(np.float64), size, coordinates_mode, bool(align_corners))
        for axis, size in enumerate(sizes)
    )
    if padding_mode in ("border", "reflection", "symmetric"):
        across, down = (_FOLDED[padding_mode](part, size) for part, size in zip((across, down), sizes, strict=True))
    elif padding_mode != "constant":
        raise ValueError(f"its padding_mode {padding_mode!r} is none of the spec's")
    return np.stack(
        [
            _at(image, down[number], across[number], sampling_mode, float(padding_value))
            for number, image in enumerate(x)
        ]
    )


def affine(
    x: Array,
    transform_matrix: Array,
    output_height: Array,
    output_width: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Number,
    coordinates_mode: str,
    align_corners: Flag,
) -> Array:
    """Return (B, C, H, W) through a map of coordinates from -1 to 1, (a0 a1 a2; b0 b1 b2) for each image."""
    grid = np.meshgrid(*(np.linspace(-1, 1, int(size)) for size in (output_width, output_height)))
    ones = np.stack([*grid, np.ones_like(grid[0])], -1)
    maps = np.broadcast_to(transform_matrix.reshape(-1, 2, 3).astype(np.float64), (len(x), 2, 3))
    coordinates = np.stack([ones @ each.T for each in maps])
    return resample(x, coordinates, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)


def crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    """Take rows and columns off the edges of the last two axes."""
    (top, bottom), (left, right) = crop_height.reshape(-1).tolist(), crop_width.reshape(-1).tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def crop_resize(
    x: Array,
    roi: Array | None = None,
    boxes: Array | None = None,
    box_indices: Array | None = None,
    target_height: Array | int = 1,
    target_width: Array | int = 1,
    normalized_coordinates: Flag = False,
    spatial_scale: Number = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Number | None = None,
) -> Array:
    """Resize boxes of (B, C, H, W) to one size each, bilinearly; a point outside the image is `pad_value` (iOS 16).

    Up to iOS 16 `roi` is (N, 1, 4, 1, 1), boxes of every image, or (N, 1, 5, 1, 1), each with its image's number first,
    and the result (N, B or 1, C, h, w). From iOS 17 on it is `boxes`, (N, 4), each of the image that `box_indices`
    names, and the result (N, C, h, w).
    """
    jobs: list[list[int]]  # images of every box
    if roi is not None:
        rows = roi.reshape(len(roi), -1)
        jobs = [[int(row[0])] if rows.shape[1] == 5 else list(range(len(x))) for row in rows]
        corners = rows[:, -4:]
    elif boxes is not None:
        corners = boxes
        jobs = [[int(number)] for number in (range(len(boxes)) if box_indices is None else box_indices)]
    else:
        raise ValueError("it has neither roi nor boxes")
    made = []
    for box, images in zip(corners.astype(np.float64), jobs, strict=True):
        (top, bottom), (left, right) = _corners(box * float(spatial_scale), box_coordinate_mode)
        if normalized_coordinates:
            top, bottom = top * (x.shape[-2] - 1), bottom * (x.shape[-2] - 1)
            left, right = left * (x.shape[-1] - 1), right * (x.shape[-1] - 1)
        down = top + points(bottom - top + 1, int(target_height), sampling_mode)
        across = left + points(right - left + 1, int(target_width), sampling_mode)
        made.append(np.stack([_boxed(x[number], down, across, pad_value) for number in images]))
    result = np.stack(made)
    return result if roi is not None else result[:, 0]


def _boxed(image: Array, down: Array, across: Array, pad_value: Number | None) -> Array:
    rows, columns = np.meshgrid(down, across, indexing="ij")
    height, width = image.shape[-2:]
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    if pad_value is None and not inside.all():
        raise ValueError("a box reaches outside its image, and without pad_value (iOS 16) the spec leaves that open")
    found = _at(image, rows.clip(0, height - 1), columns.clip(0, width - 1), "bilinear", 0.0)
    return found if pad_value is None else np.where(inside, found, np.asarray(pad_value, found.dtype))


def _corners(box: Array, mode: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return a box as (top, bottom), (left, right)."""
    first, second, third, fourth = box.tolist()
    if mode not in _BOX_MODES:
        raise ValueError(f"its box_coordinate_mode {mode!r} is none of the spec's")
    if mode.startswith("CENTER"):
        # Of a box of n pixels the corners' pixels lie n - 1 apart.
        first, third = first - (third - 1) / 2, first + (third - 1) / 2
        second, fourth = second - (fourth - 1) / 2, second + (fourth - 1) / 2
    pairs = (first, third), (second, fourth)
    return pairs if mode.endswith("HEIGHT_FIRST") else (pairs[1], pairs[0])


_BOX_MODES = tuple(f"{kind}_{first}_FIRST" for kind in ("CORNERS", "CENTER_SIZE") for first in ("HEIGHT", "WIDTH"))


def _pixels(value: Array, size: int, mode: str, align_corners: bool) -> Array:
    """Return coordinates of an axis as places of pixels."""
    if mode == "unnormalized":
        return value
    if mode == "normalized_minus_one_to_one":
        value = (value + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(f"its coordinates_mode {mode!r} is none of the spec's")
    return value * (size - 1) if align_corners else value * size - 0.5


def _reflected(place: Array, size: int) -> Array:
    if size == 1:
        return np.zeros_like(place)
    turned = np.mod(place, 2 * (size - 1))
    return np.minimum(turned, 2 * (size - 1) - turned)


def _mirrored(place: Array, size: int) -> Array:
    turned = np.mod(place + 0.5, 2 * size)
    return np.clip(np.minimum(turned, 2 * size - turned) - 0.5, 0, size - 1)


_FOLDED: dict[str, Callable[[Array, int], Array]] = {
    "border": lambda place, size: np.clip(place, 0, size - 1),
    "reflection": _reflected,
    "symmetric": _mirrored,
}
"""MIL's padding_mode → how a place outside the image comes back into it."""


def _at(image: Array, down: Array, across: Array, mode: str, outside: float) -> Array:
    """Return (C, H, W) at places of pixels; a neighbour outside the image counts as `outside`."""
    if mode == "nearest":
        return _picked(image, np.rint(down), np.rint(across), outside)
    if mode != "bilinear":
        raise ValueError(f"its sampling_mode {mode!r} is none of the spec's")
    top, left = np.floor(down), np.floor(across)
    lower, right = (down - top).astype(np.float32), (across - left).astype(np.float32)
    above, below = (
        _picked(image, row, left, outside) * (1 - right) + _picked(image, row, left + 1, outside) * right
        for row in (top, top + 1)
    )
    return np.asarray(above * (1 - lower) + below * lower)


def _picked(image: Array, down: Array, across: Array, outside: float) -> Array:
    inside = (down >= 0) & (down < image.shape[-2]) & (across >= 0) & (across < image.shape[-1])
    rows, columns = (np.where(inside, part, 0).astype(np.intp) for part in (down, across))
    return np.where(inside, image[:, rows, columns], np.asarray(outside, image.dtype))
