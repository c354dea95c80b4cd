"""What an app sees of a program: images, labels, defaults, lists of inputs, as coremltools' predict has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_builder import changed, ct, mb, only, save, spread
from PIL import Image

from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains
from runtime_py.mil import Program

PICTURE = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
LABELS = ["cat", "dog", "teapot"]


def convert(path: Path, module: torch.nn.Module, **given: Any) -> Program:
    """Convert a module of one image or tensor of (1, C, 4, 5)."""
    channels = given.pop("channels", 3)
    with quiet_toolchains():
        traced = torch.jit.trace(module.eval(), torch.rand(1, channels, 4, 5))
        model = ct.convert(traced, skip_model_load=True, **given)
        model.save(str(path / "p.mlpackage"))
    return Program.open(path / "p.mlpackage")


class Shifted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5 + 20.3


@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_an_image_goes_in_and_comes_out_with_its_colours(colour: str, tmp_path: Path) -> None:
    layout = ct.colorlayout[colour]
    program = convert(
        tmp_path,
        Shifted(),
        inputs=[ct.ImageType(name="image", shape=(1, 3, 4, 5), color_layout=layout, scale=0.5, bias=[1, 2, 3])],
        outputs=[ct.ImageType(name="made", color_layout=layout)],
        minimum_deployment_target=ct.target.iOS16,
        compute_precision=ct.precision.FLOAT32,
    )
    made = program.predict({"image": Image.fromarray(PICTURE)})["made"]
    assert made.mode == "RGBA" and made.size == (5, 4)
    bias = np.array([1, 2, 3]) if colour == "RGB" else np.array([3, 2, 1])
    wanted = np.rint((PICTURE * 0.5 + bias) * 0.5 + 20.3)
    np.testing.assert_array_equal(np.asarray(made)[..., :3], wanted)
    assert (np.asarray(made)[..., 3] == 255).all()


def test_a_grey_image_has_one_channel(tmp_path: Path) -> None:
    grey = ct.colorlayout.GRAYSCALE
    program = convert(
        tmp_path,
        Shifted(),
        channels=1,
        inputs=[ct.ImageType(name="image", shape=(1, 1, 4, 5), color_layout=grey)],
        outputs=[ct.ImageType(name="made", color_layout=ct.colorlayout.GRAYSCALE_FLOAT16)],
        minimum_deployment_target=ct.target.iOS16,
    )
    made = program.predict({"image": Image.fromarray(PICTURE[..., 0])})["made"]
    assert made.mode == "F"
    np.testing.assert_allclose(np.asarray(made), PICTURE[..., 0] * 0.5 + 20.3, rtol=2e-3)


def test_a_tensor_may_stand_for_an_image_and_wrong_images_are_refused(tmp_path: Path) -> None:
    image = ct.ImageType(name="image", shape=(1, 3, 4, 5), color_layout=ct.colorlayout.RGB)
    program = convert(tmp_path, Shifted(), inputs=[image], compute_precision=ct.precision.FLOAT32)
    by_image = only(program.predict({"image": Image.fromarray(PICTURE)}))
    by_tensor = only(program.predict({"image": PICTURE.transpose(2, 0, 1)[None].astype(np.float32)}))
    np.testing.assert_array_equal(by_image, by_tensor)
    with pytest.raises(InputError, match="image of mode L; convert it to RGB"):
        program.predict({"image": Image.fromarray(PICTURE[..., 0])})
    with pytest.raises(InputError, match=r"has shape \[1, 3, 5, 4\]"):
        program.predict({"image": Image.fromarray(PICTURE.transpose(1, 0, 2).copy())})


class Scores(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x.mean((2, 3)), 1)


@pytest.mark.parametrize("labels", [LABELS, [7, 3, 11]])
def test_a_classifier_gives_its_label_and_a_dictionary(labels: list[Any], tmp_path: Path) -> None:
    program = convert(
        tmp_path,
        Scores(),
        inputs=[ct.TensorType(name="x", shape=(1, 3, 4, 5))],
        classifier_config=ct.ClassifierConfig(labels),
        compute_precision=ct.precision.FLOAT32,
    )
    x = np.zeros((1, 3, 4, 5), np.float32)
    x[0, 1] = 2
    found = program.predict({"x": x})
    label = found.pop("classLabel")
    probabilities = only(found)
    assert label == labels[1] and type(label) is type(labels[1])
    assert list(probabilities) == labels
    np.testing.assert_allclose(list(probabilities.values()), torch.softmax(torch.tensor([0.0, 2, 0]), 0), rtol=1e-6)


def test_an_input_with_a_default_may_be_left_out(tmp_path: Path) -> None:
    class Sum(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with quiet_toolchains():
        traced = torch.jit.trace(Sum(), (torch.rand(2, 3), torch.rand(2, 3)))
        inputs = [
            ct.TensorType(name="x", shape=(2, 3)),
            ct.TensorType(name="y", shape=(2, 3), default_value=np.full((2, 3), 1.5, np.float32)),
        ]
        model = ct.convert(traced, inputs=inputs, compute_precision=ct.precision.FLOAT32, skip_model_load=True)
        model.save(str(tmp_path / "p.mlpackage"))
    program, x = Program.open(tmp_path / "p.mlpackage"), spread(2, 3)
    np.testing.assert_array_equal(only(program.predict({"x": x})), x + np.float32(1.5))
    np.testing.assert_array_equal(only(program.predict({"x": x, "y": x})), x + x)
    with pytest.raises(InputError, match="lack 'x'"):
        program.predict({"y": x})


def test_predict_takes_lists_and_gives_single_precision_and_an_axis(tmp_path: Path) -> None:
    x = {"x": spread(3, 4).astype(np.float16)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x: mb.reduce_sum(x=x, keep_dims=False), x, 16))
    several = program.predict([x, {"x": 2 * x["x"]}])
    assert [only(each).shape for each in several] == [(1,), (1,)]
    assert only(several[0]).dtype == np.float32 and only(program.run(x)).dtype == np.float16
    assert only(program.run(x)).shape == ()


WHOLE = [(np.array([[1.9, -0.9]], np.float32), "float32"), (np.array([[True, False]]), "bool"), ([[1, 0]], "a list")]


@pytest.mark.parametrize(("indices", "kind"), WHOLE, ids=[kind for _, kind in WHOLE])
def test_whole_numbers_may_come_as_any_type(indices: Any, kind: str, tmp_path: Path) -> None:
    given = {"x": spread(2, 3), "i": np.zeros((1, 2), np.int32)}
    program = Program.open(save(tmp_path / "p.mlpackage", lambda x, i: mb.gather(x=x, indices=i), given))
    np.testing.assert_array_equal(only(program.run({**given, "i": indices}, "fp32"))[0], given["x"][[1, 0]])


def as_image(space: int) -> Callable[[Any], None]:
    def change(spec: Any) -> None:
        image = spec.description.output[0].type.imageType
        image.width, image.height, image.colorSpace = 3, 2, space

    return change


@pytest.mark.parametrize(("space", "message"), [(20, "is an image of RGB, and"), (99, "unknown colour space 99")])
def test_an_image_that_the_program_does_not_make_is_refused(space: int, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "p.mlpackage", lambda x: mb.relu(x=x), {"x": spread(2, 3)})
    with pytest.raises(InputError, match=message):
        Program.open(changed(as_image(space), path, tmp_path / "q.mlpackage"))


def test_what_a_description_says_wrongly_is_one_sentence(tmp_path: Path) -> None:
    """Sizes that no array has, and a number described where the program makes a matrix."""
    x = {"x": spread(2, 3)}
    sound = save(tmp_path / "p.mlpackage", lambda x: mb.relu(x=x), x)

    def as_number(spec: Any) -> None:
        spec.description.output[0].type.int64Type.SetInParent()

    def vast(spec: Any) -> None:
        array = spec.description.input[0].type.multiArrayType
        for _ in range(2):
            array.shapeRange.sizeRanges.add(lowerBound=4_000_000_000, upperBound=-1)

    program = Program.open(changed(as_number, sound, tmp_path / "number.mlpackage"))
    with pytest.raises(InputError, match="contradicts itself"):
        program.predict(x)
    program = Program.open(changed(vast, sound, tmp_path / "vast.mlpackage"))
    with pytest.raises(InputError, match="contradicts itself"):
        program.random_inputs(0)


def test_an_image_without_pixels_is_one_sentence(tmp_path: Path) -> None:
    image = ct.ImageType(name="image", shape=(1, 3, 4, 5), color_layout=ct.colorlayout.RGB)
    convert(tmp_path, Shifted(), inputs=[image], compute_precision=ct.precision.FLOAT32)

    def empty(spec: Any) -> None:
        sizes = spec.description.input[0].type.imageType.imageSizeRange
        for span in (sizes.widthRange, sizes.heightRange):
            span.lowerBound, span.upperBound = 0, -1

    program = Program.open(changed(empty, tmp_path / "p.mlpackage", tmp_path / "empty.mlpackage"))
    with pytest.raises(InputError, match="contradicts itself"):
        program.fit_image("image", Image.fromarray(PICTURE))


def test_a_result_whose_number_of_axes_the_inputs_decide(tmp_path: Path) -> None:
    """As coremltools declares `fill` of a shape whose length is open."""

    def any_rank(spec: Any) -> None:
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        for operation in block.operations:
            if operation.type in ("fill", "identity"):
                tensor = operation.outputs[0].type.tensorType
                tensor.rank = -1
                del tensor.dimensions[:]
                tensor.dimensions.add().unknown.variadic = True

    x = {"x": np.array([2, 3], np.int32)}
    path = save(tmp_path / "p.mlpackage", lambda x: mb.identity(x=mb.fill(shape=x, value=2.5)), x)
    program = Program.open(changed(any_rank, path, tmp_path / "q.mlpackage"))
    assert only(program.run(x, "fp32")).tolist() == [[2.5] * 3] * 2
    assert str(only(program.outputs)) == "fp32 of any rank"
