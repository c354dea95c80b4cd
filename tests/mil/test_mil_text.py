"""Compiled models: the text says what the package says, message for message, and damaged text is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_builder import ct, mb, only, save, spread, types
from mil_text import compiled

from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains
from runtime_py.mil import Program, text
from runtime_py.mil.package import Package

X = {"x": spread(2, 24).astype(np.float16), "i": np.array([1, 0, 1], np.int32)}


def build(x: Any, i: Any) -> Any:
    """Blobs, packed four bits, numbers of every kind in place, several results, lists of operands."""
    small = mb.constexpr_blockwise_shift_scale(
        data=(np.arange(24 * 24) % 16 - 8).astype(np.int8).reshape(24, 24),
        scale=np.abs(spread(24, 2, seed=1)).astype(np.float16),
    )
    hidden = mb.linear(x=x, weight=spread(24, 24, seed=2).astype(np.float16), bias=spread(24).astype(np.float16))
    clipped = mb.clip(x=mb.matmul(x=hidden, y=small), alpha=np.float16(-np.inf), beta=np.float16(3.14159))
    parts = mb.split(x=mb.gather(x=clipped, indices=i), num_splits=2, axis=-1)
    return mb.concat(values=[*parts, mb.pad(x=parts[0], pad=[0, 1], constant_val=np.float16(-0.1))], axis=1)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("text") / "p.mlpackage", build, X, 18)


@pytest.mark.parametrize(
    ("token", "number"),
    [
        ("0.5", 0.5),
        ("0.044715", 0.044715),
        ("1e-5", 1e-5),
        ("10.0", 10.0),
        ("0x1.8p-3", 0.1875),
        ("-0X1P+2", -4.0),
        ("-inf", -np.inf),
        ("12", 12),
        ("-3", -3),
    ],
)
def test_numbers_are_decimal_unless_they_say_otherwise(token: str, number: float) -> None:
    assert text._number(token) == number


def operations(package: Package) -> list[Any]:
    (function,) = package.spec.mlProgram.functions.values()
    return list(function.block_specializations[function.opset].operations)


@pytest.mark.parametrize("short", [True, False])
def test_the_text_is_read_as_the_messages_that_it_was_written_from(short: bool, package: Path, tmp_path: Path) -> None:
    made = compiled(package, tmp_path / "p.mlmodelc", short)
    wanted, found = (operations(Package.open(path)) for path in (package, made))
    assert [each.type for each in found] == [each.type for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == other, (one, other)
    np.testing.assert_array_equal(only(Program.open(made).run(X)), only(Program.open(package).run(X)))


def metadata(**given: Any) -> dict[str, Any]:
    return {"specificationVersion": 8, "inputSchema": [], "outputSchema": [], "stateSchema": [], **given}


def entry(name: str, kind: str = "MultiArray", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "isOptional": "0", **more}


def test_the_description_tells_open_sizes_and_the_author(tmp_path: Path) -> None:
    shape = ct.Shape((ct.RangeDim(2, 5), 3))
    with quiet_toolchains():

        @mb.program(input_specs=[mb.TensorSpec((ct.converters.mil.mil.get_new_symbol(), 3))])
        def built(x: Any) -> Any:
            return mb.exp(x=x, name="made")

        model = ct.convert(
            built, inputs=[ct.TensorType("x", shape)], compute_precision=ct.precision.FLOAT32, skip_model_load=True
        )
        model.save(str(tmp_path / "p.mlpackage"))
    array = {"dataType": "Float32", "shape": "[2, 3]", "shapeRange": "[[2, 5], [3, 3]]"}
    told = metadata(
        inputSchema=[entry("x", **array)],
        outputSchema=[entry("made", dataType="Float32", shape="[]")],
        author="somebody",
    )
    made = compiled(tmp_path / "p.mlpackage", tmp_path / "p.mlmodelc", False, told)
    program = Program.open(made)
    x = spread(4, 3)
    np.testing.assert_array_equal(only(program.run({"x": x}, "fp32")), np.exp(x))
    with pytest.raises(InputError, match=r"has shape \[6, 3\]"):
        program.run({"x": spread(6, 3)})
    assert Package.read(made).spec.description.metadata.author == "somebody"


def test_a_state_is_read_from_text(tmp_path: Path) -> None:
    @mb.program(
        input_specs=[mb.StateTensorSpec((2,), dtype=types.fp16), mb.TensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def built(state: Any, x: Any) -> Any:
        return mb.coreml_update_state(state=state, value=mb.add(x=mb.read_state(input=state), y=x))

    with quiet_toolchains():
        model = ct.convert(built, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
        model.save(str(tmp_path / "p.mlpackage"))
    program = Program.open(compiled(tmp_path / "p.mlpackage", tmp_path / "p.mlmodelc", True))
    state = program.make_state()
    for times in (1, 2):
        assert only(program.predict({"x": np.ones(2, np.float16)}, state)).tolist() == [times, times]


DAMAGED = {
    "cut": lambda text: text[: len(text) // 2],
    "no program": lambda text: text.replace("program(", "(", 1),
    "no end": lambda text: text.rstrip()[:-1],
    "two programs": lambda text: text + text,
    "a stray mark": lambda text: text.replace(";", "$", 1),
    "no semicolon": lambda text: text.replace(";", "", 1),
    "unknown type": lambda text: text.replace("tensor<fp16", "tensor<fp24", 1),
    "negative size": lambda text: text.replace("[24, 24]", "[-24, 24]", 1),
    "open bracket": lambda text: text.replace("[24, 24]>(", "[24, 24]>", 1),
    "words for numbers": lambda text: text.replace("uint64(64)", "uint64(many)", 1),
    "unknown name": lambda text: text.replace("x = x", "x = nobody", 1),
    "no function": lambda text: "program(1.0)\n{\n}\n",
    "a block": lambda text: text.replace("[name = ", "{ } [name = ", 1),
    "types without end": lambda text: text.replace("bool(", "list<" * 100_000 + "bool(", 1),
    "an endless number": lambda text: text.replace("uint64(64)", f"uint64({'9' * 5000})", 1),
    "a number that no type holds": lambda text: text.replace("int32(1)", "int32(0x1.8p+99999)", 1),
    "many brackets": lambda text: text.replace("(64)", "(" + "[" * 100_000, 1),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_text_is_told_in_one_sentence(name: str, package: Path, tmp_path: Path) -> None:
    made = compiled(package, tmp_path / "p.mlmodelc", True)
    text = (made / "model.mil").read_text()
    assert DAMAGED[name](text) != text
    (made / "model.mil").write_text(DAMAGED[name](text))
    with pytest.raises(InputError) as error:
        Program.open(made).run(X)
    said = str(error.value)
    assert "\n" not in said and ";" in said and len(said) < 600


@pytest.mark.parametrize("seed", range(60))
def test_changed_letters_never_escape(seed: int, package: Path, tmp_path: Path) -> None:
    made = compiled(package, tmp_path / "p.mlmodelc", bool(seed % 2))
    rng = np.random.default_rng(seed)
    data = bytearray((made / "model.mil").read_bytes())
    for _ in range(3):
        data[int(rng.integers(len(data)))] = int(rng.integers(32, 127))
    (made / "model.mil").write_bytes(bytes(data))
    try:
        Program.open(made).run(X)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "told",
    [
        '[{"specificationVersion": 1e999}]',
        *("[]", "{}", "[[]]", "[1]", '[{"inputSchema": 3}]', '[{"inputSchema": [{}], "outputSchema": []}]'),
        '[{"inputSchema": [{"name": "x", "type": "MultiArray", "dataType": "Float32", "shape": "'
        + "[" * 20_000
        + '"}], "outputSchema": []}]',
    ],
    ids=lambda told: told[:40],
)
def test_a_wrong_description_is_told(told: str, package: Path, tmp_path: Path) -> None:
    made = compiled(package, tmp_path / "p.mlmodelc", True)
    (made / "metadata.json").write_text(told)
    if told == "[]":  # nothing told: the program's own types count
        assert only(Program.open(made).run(X)).shape[0] == 3
        return
    with pytest.raises(InputError, match=r"metadata\.json"):
        Program.open(made)
