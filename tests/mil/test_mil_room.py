"""Sizes of terabytes in a damaged program: refused before anything is made, in one sentence."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from mil_builder import changed, mb, save, spread

from lorarar.errors import InputError
from runtime_py.mil import Program
from runtime_py.mil.graph import operations

IMAGE, ROW = {"x": spread(1, 2, 8, 8)}, {"x": spread(2, 4)}
HUGE = 2_000_000_000
MOST = 64 << 20  # bytes that a refusal may take

Case = tuple[dict[str, np.ndarray], Callable[..., Any], str, str, list[int]]
"""Inputs, the sound program, and what is changed in it: operation, parameter, numbers."""

CASES: dict[str, Case] = {
    "tile": (ROW, lambda x: mb.tile(x=x, reps=[2, 1]), "tile", "reps", [10**9, 1]),
    "tile of both": (ROW, lambda x: mb.tile(x=x, reps=[2, 1]), "tile", "reps", [30_000, 30_000]),
    "pad": (ROW, lambda x: mb.pad(x=x, pad=[1, 1]), "pad", "pad", [HUGE, 1]),
    "fill": (ROW, lambda x: mb.add(x=mb.fill(shape=[2, 4], value=1.0), y=x), "fill", "shape", [200_000, 200_000]),
    "one_hot": (
        ROW,
        lambda x: mb.one_hot(indices=mb.cast(x=x, dtype="int32"), one_hot_vector_size=3),
        "one_hot",
        "one_hot_vector_size",
        [HUGE],
    ),
    "range": (ROW, lambda x: mb.add(x=mb.range_1d(start=0.0, end=4.0, step=1.0), y=x), "range_1d", "end", [HUGE]),
    "resize": (
        IMAGE,
        lambda x: mb.resize(x=x, shape=[9, 9], resized_dims=np.uint32(2)),
        "resize",
        "shape",
        [100_000, 100_000],
    ),
    "resize_bilinear": (
        IMAGE,
        lambda x: mb.resize_bilinear(x=x, target_size_height=9, target_size_width=9),
        "resize_bilinear",
        "target_size_height",
        [HUGE],
    ),
    "upsample": (
        IMAGE,
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2),
        "upsample_nearest_neighbor",
        "scale_factor_height",
        [HUGE],
    ),
    "conv dilation": (IMAGE, lambda x: mb.conv(x=x, weight=spread(3, 2, 2, 2)), "conv", "dilations", [10**6, 10**6]),
    "conv padding": (
        IMAGE,
        lambda x: mb.conv(x=x, weight=spread(3, 2, 2, 2), pad_type="custom", pad=[1] * 4),
        "conv",
        "pad",
        [10**8] * 4,
    ),
    "conv_transpose stride": (
        IMAGE,
        lambda x: mb.conv_transpose(x=x, weight=spread(2, 3, 2, 2)),
        "conv_transpose",
        "strides",
        [10**5, 10**5],
    ),
    "conv_transpose dilation": (
        IMAGE,
        lambda x: mb.conv_transpose(x=x, weight=spread(2, 3, 2, 2)),
        "conv_transpose",
        "dilations",
        [10**6, 10**6],
    ),
    "pool padding": (
        IMAGE,
        lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], pad_type="custom", pad=[1] * 4),
        "avg_pool",
        "pad",
        [10**8] * 4,
    ),
    "pool windows": (
        IMAGE,
        lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2], pad_type="valid"),
        "max_pool",
        "kernel_sizes",
        [HUGE, HUGE],
    ),
    "random": (ROW, lambda x: mb.add(x=mb.random_uniform(shape=[2, 4]), y=x), "random_uniform", "shape", [HUGE, 4]),
    "crop_resize": (
        IMAGE,
        lambda x: mb.crop_resize(x=x, boxes=np.ones((1, 4), np.float32), target_height=2),
        "crop_resize",
        "target_height",
        [HUGE],
    ),
    "affine": (
        IMAGE,
        lambda x: mb.affine(
            x=x,
            transform_matrix=spread(1, 6),
            output_height=2,
            output_width=2,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        "affine",
        "output_width",
        [HUGE],
    ),
    "space_to_batch": (
        IMAGE,
        lambda x: mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[0, 0], [0, 0]]),
        "space_to_batch",
        "paddings",
        [10**9] * 4,
    ),
    "make_list": (
        ROW,
        lambda x: mb.add(x=mb.list_read(ls=mb.make_list(init_length=2, elem_shape=(4,)), index=0), y=x),
        "make_list",
        "init_length",
        [HUGE],
    ),
    "list_write": (
        ROW,
        lambda x: mb.list_read(
            ls=mb.list_write(ls=mb.make_list(init_length=2, elem_shape=(2, 4)), index=0, value=x), index=0
        ),
        "list_write",
        "index",
        [HUGE],
    ),
    "sliding_windows": (ROW, lambda x: mb.sliding_windows(x=x, axis=1, size=2), "sliding_windows", "size", [HUGE]),
    "topk": (ROW, lambda x: mb.topk(x=x, k=2, axis=1)[0], "topk", "k", [HUGE]),
}


def with_numbers(kind: str, parameter: str, numbers: list[int]) -> Callable[[Any], None]:
    """Return a change of a constant that an operation takes."""

    def change(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        every = list(operations(block))
        (operation,) = [each for each in every if each.type == kind]
        name = operation.inputs[parameter].arguments[0].name
        (constant,) = [each for each in every if each.outputs and each.outputs[0].name == name]
        tensor = constant.attributes["val"].immediateValue.tensor
        values = getattr(tensor, tensor.WhichOneof("value")).values
        assert len(values) == len(numbers)
        values[:] = numbers

    return change


@pytest.mark.parametrize("name", CASES)
def test_a_size_of_terabytes_is_refused_before_it_is_made(name: str, tmp_path: Path) -> None:
    inputs, build, kind, parameter, numbers = CASES[name]
    sound = save(tmp_path / "sound.mlpackage", build, inputs)
    Program.open(sound).run(inputs, "fp32")
    damaged = changed(with_numbers(kind, parameter, numbers), sound, tmp_path / "damaged.mlpackage")
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            Program.open(damaged).run(inputs, "fp32")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and ";" in str(error.value) and kind in str(error.value)
    assert peak < MOST


def test_inputs_that_ask_for_too_much_are_refused_too(tmp_path: Path) -> None:
    """Where the program declares no size, memory is the limit."""
    inputs = {"shape": np.array([2, 3], np.int32)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda shape: mb.fill(shape=shape, value=1.0), inputs))
    assert next(iter(program.run(inputs, "fp32").values())).shape == (2, 3)
    with pytest.raises(InputError, match=r"fill .* would take \d+ GiB of \d+; give smaller inputs"):
        program.run({"shape": np.array([HUGE, 1000], np.int32)}, "fp32")


def test_memory_that_can_be_had_is_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches count as free. macOS has no sysconf name for free pages, and Windows no sysconf."""

    def none(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", none)
    inputs = {"shape": np.array([2, 3], np.int32)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda shape: mb.fill(shape=shape, value=1.0), inputs))
    assert next(iter(program.run(inputs, "fp32").values())).shape == (2, 3)
    much, little = psutil.virtual_memory()._replace(available=48), psutil.virtual_memory()._replace(available=47)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: much)
    program.run(inputs, "fp32")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    with pytest.raises(InputError, match=r"fill .* would take"):
        program.run(inputs, "fp32")


def test_two_small_tensors_that_broadcast_to_a_huge_one_are_refused(tmp_path: Path) -> None:
    inputs = {"x": spread(4, 1), "y": spread(1, 4)}
    wide = {"x": np.zeros((300_000, 1), np.float32), "y": np.zeros((1, 300_000), np.float32)}

    def open_sizes(spec: Any) -> None:
        main = spec.mlProgram.functions["main"]
        block = next(iter(main.block_specializations.values()))
        named = [*main.inputs, *(output for operation in block.operations for output in operation.outputs)]
        for each in named:
            for size in each.type.tensorType.dimensions:
                if size.constant.size == 4:
                    size.unknown.variadic = False
        for given, axis in zip(spec.description.input, (0, 1), strict=True):
            spans = given.type.multiArrayType.shapeRange.sizeRanges
            for number in range(2):
                spans.add(lowerBound=1, upperBound=-1 if number == axis else 1)

    sound = save(tmp_path / "p.mlpackage", lambda x, y: mb.mul(x=x, y=y), inputs)
    program = Program.open(changed(open_sizes, sound, tmp_path / "open.mlpackage"))
    assert next(iter(program.run(inputs, "fp32").values())).shape == (4, 4)
    with pytest.raises(InputError, match=r"mul .* would take 671 GiB"):
        program.run(wide, "fp32")
