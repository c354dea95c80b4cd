"""Damaged and hostile packages: runtime_py.mil answers each with one sentence, or with the right result."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_builder import ct, mb, save, spread

from lorarar.errors import InputError
from runtime_py.mil import Program, program
from runtime_py.mil.ops import control

Mutation = Callable[[Path], None]
X = {"x": spread(2, 24).astype(np.float16)}
MOST = 64 << 20  # bytes that a damaged program may take: it declares thousands
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


def build(x: Any) -> Any:
    """Every kind of storage: half, packed four bits, 32 bits, immediates."""
    small = mb.constexpr_blockwise_shift_scale(
        data=(np.arange(24 * 24) % 16 - 8).astype(np.int8).reshape(24, 24),
        scale=np.abs(spread(24, 2, seed=1)).astype(np.float16),
    )
    hidden = mb.linear(x=x, weight=spread(24, 24, seed=2).astype(np.float16), bias=spread(24).astype(np.float16))
    mixed = mb.add(x=mb.matmul(x=mb.relu(x=hidden), y=small), y=x)
    parts = mb.split(x=mixed, num_splits=2, axis=1)
    return mb.concat(values=parts, axis=0)


def build_blocks(x: Any) -> Any:
    """A loop with a list in it, and a branch in the loop."""
    halves = mb.mul(x=x, y=np.float16(0.5))
    rows = mb.make_list(init_length=4, elem_shape=(2, 24), dtype="fp16")

    def below(row: Any, rows: Any, total: Any) -> Any:
        return mb.less(x=row, y=np.int32(4))

    def body(row: Any, rows: Any, total: Any) -> Any:
        even = mb.equal(x=mb.mod(x=row, y=np.int32(2)), y=np.int32(0))
        more = mb.cond(
            pred=even, _true_fn=lambda: mb.add(x=total, y=halves), _false_fn=lambda: mb.sub(x=total, y=np.float16(1))
        )
        return mb.add(x=row, y=np.int32(1)), mb.list_write(ls=rows, index=row, value=more), more

    written = mb.while_loop(_cond=below, _body=body, loop_vars=(np.int32(0), rows, x))[1]
    return mb.concat(values=[mb.list_read(ls=written, index=row) for row in range(4)], axis=0)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("blocks") / "p.mlpackage", build_blocks, X, 18)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = save(tmp_path_factory.mktemp("sound") / "p.mlpackage", build, X, 18)
    return path, run(path)


def run(path: Path) -> np.ndarray:
    (value,) = Program.open(path).run(X).values()
    return value


def edit(relative: str, change: Callable[[bytes], bytes]) -> Mutation:
    def mutate(path: Path) -> None:
        file = path / relative
        file.write_bytes(change(file.read_bytes()))

    return mutate


def cut(relative: str, keep: int) -> Mutation:
    return edit(relative, lambda data: data[:keep])


def flip(relative: str, byte: int, bit: int) -> Mutation:
    def change(data: bytes) -> bytes:
        return data[:byte] + bytes([data[byte] ^ (1 << bit)]) + data[byte + 1 :]

    return edit(relative, change)


def without(relative: str) -> Mutation:
    def mutate(path: Path) -> None:
        target = path / relative
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return mutate


def manifest(change: Callable[[dict[str, Any]], Any]) -> Mutation:
    def mutate(path: Path) -> None:
        file = path / "Manifest.json"
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    return mutate


def root_path(value: Any) -> Mutation:
    def change(data: dict[str, Any]) -> dict[str, Any]:
        data["itemInfoEntries"][data["rootModelIdentifier"]]["path"] = value
        return data

    return manifest(change)


def spec(change: Callable[[Any, Any], Any]) -> Mutation:
    """Edit the parsed specification; `change` gets it and its operations by type."""

    def mutate(path: Path) -> None:
        file = path / MODEL
        model = ct.proto.Model_pb2.Model.FromString(file.read_bytes())
        block = model.mlProgram.functions["main"].block_specializations["CoreML8"]
        change(model, {operation.type: operation for operation in block.operations})
        file.write_bytes(model.SerializeToString())

    return mutate


def blobs(model: Any) -> list[Any]:
    block = model.mlProgram.functions["main"].block_specializations["CoreML8"]
    values = [operation.attributes["val"] for operation in block.operations if operation.type == "const"]
    return [value for value in values if value.WhichOneof("value") == "blobFileValue"]


def set_blob(**values: Any) -> Mutation:
    def change(model: Any, _: Any) -> None:
        for name, value in values.items():
            setattr(blobs(model)[0].blobFileValue, name, value)

    return spec(change)


def resize_blob(axis: int, size: int) -> Mutation:
    def change(model: Any, _: Any) -> None:
        blobs(model)[0].type.tensorType.dimensions[axis].constant.size = size

    return spec(change)


def dimension(proto: Any, axis: int, size: int) -> None:
    proto.type.tensorType.dimensions[axis].constant.size = size


def retype_blob(dtype: int) -> Mutation:
    def change(model: Any, _: Any) -> None:
        blobs(model)[0].type.tensorType.dataType = dtype

    return spec(change)


def outside(path: Path) -> None:
    """A weights file beside the package, and a link to it in the package."""
    moved = path.parent / "elsewhere.bin"
    shutil.move(path / WEIGHTS, moved)
    (path / WEIGHTS).symlink_to(moved)


def circle(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).symlink_to("other.bin")
    (path / WEIGHTS).with_name("other.bin").symlink_to("weight.bin")


def huge_model(path: Path) -> None:
    """A hole in a file: it takes no room on the disk."""
    os.truncate(path / MODEL, 3 << 30)


def model_outside(path: Path) -> None:
    """A sound model beside the package, and a manifest that points there."""
    shutil.copytree(path / "Data/com.apple.CoreML", path.parent / "com.apple.CoreML")
    root_path("../../com.apple.CoreML/model.mlmodel")(path)


def made_twice(model: Any, operations: Any) -> None:
    """An operation that takes the input's name for its output; its reader follows, so every name is known."""
    operations["relu"].outputs[0].name = "x"
    operations["matmul"].inputs["x"].arguments[0].name = "x"


def neural_network(model: Any, _: Any) -> None:
    model.neuralNetwork.SetInParent()


def wrong_immediate(model: Any, operations: Any) -> None:
    operations["const"].attributes["val"].immediateValue.tensor.floats.values.append(1.0)


def set_output(name: str, axis: int, size: int) -> Mutation:
    return spec(lambda model, operations: dimension(operations[name].outputs[0], axis, size))


# Mutations that no reading of the package can get a right result from.
FATAL: dict[str, Mutation] = {
    "no manifest": without("Manifest.json"),
    "no data": without("Data"),
    "no model": without(MODEL),
    "no weights": without(WEIGHTS),
    "no weights folder": without("Data/com.apple.CoreML/weights"),
    "empty manifest": cut("Manifest.json", 0),
    "cut manifest": cut("Manifest.json", 200),
    "binary manifest": edit("Manifest.json", lambda data: b"\xff\xfe\x00" + data),
    "manifest is a list": manifest(lambda data: [data]),
    "deep manifest": edit("Manifest.json", lambda data: b"[" * 100_000),
    "no root": manifest(lambda data: {**data, "rootModelIdentifier": "other"}),
    "no entries": manifest(lambda data: {"rootModelIdentifier": "x"}),
    "root path leaves": root_path("../../../../etc/passwd"),
    "root path to a sound model": model_outside,
    "root path is absolute": root_path("/etc/passwd"),
    "root path is a folder": root_path("com.apple.CoreML"),
    "root path is a number": root_path(3),
    "root path with a zero": root_path("com.apple.CoreML/\0"),
    "empty model": cut(MODEL, 0),
    "model of zeros": edit(MODEL, lambda data: bytes(1000)),
    "model is text": edit(MODEL, lambda data: b"version https://git-lfs.github.com/spec/v1\n"),
    "half a model": cut(MODEL, 1000),
    "a neural network": spec(neural_network),
    "weights leave the package": set_blob(fileName="@model_path/../../../other.bin"),
    "weights are absolute": set_blob(fileName="/etc/passwd"),
    "weights are a link": outside,
    "weights have no name": set_blob(fileName=""),
    "weights with a zero": set_blob(fileName="@model_path/weights/\0x"),
    "weights are a circle of links": circle,
    "a model of three gigabytes": huge_model,
    "offset past the end": set_blob(offset=1 << 40),
    "offset off the grid": set_blob(offset=65),
    "offset of no blob": set_blob(offset=128),
    "offset zero": set_blob(offset=0),
    "blob of other size": resize_blob(0, 23),
    "blob of no size": resize_blob(0, 0),
    "blob without end": resize_blob(0, 1 << 62),
    "blob of other type": retype_blob(11),
    "blob of unknown type": retype_blob(99),
    "blob of strings": retype_blob(2),
    "blob of booleans": retype_blob(1),
    "wrong immediate": spec(wrong_immediate),
    "wrong output size": set_output("matmul", 1, 23),
    "wrong output rank": spec(lambda m, ops: ops["relu"].outputs[0].type.tensorType.dimensions.add()),
    "unknown operation": spec(lambda m, ops: setattr(ops["relu"], "type", "relu7")),
    "control flow": spec(lambda m, ops: setattr(ops["relu"], "type", "while_loop")),
    "another operation": spec(lambda m, ops: setattr(ops["relu"], "type", "conv")),
    "missing input": spec(lambda m, ops: ops["relu"].inputs.pop("x")),
    "unknown input": spec(lambda m, ops: ops["relu"].inputs["q"].CopyFrom(ops["relu"].inputs["x"])),
    "unknown name": spec(lambda m, ops: setattr(ops["relu"].inputs["x"].arguments[0], "name", "nobody")),
    "reads itself": spec(
        lambda m, ops: setattr(ops["relu"].inputs["x"].arguments[0], "name", ops["relu"].outputs[0].name)
    ),
    "two for one": spec(lambda m, ops: ops["relu"].inputs["x"].arguments.add(name="x")),
    "made twice": spec(made_twice),
    "fewer outputs": spec(lambda m, ops: ops["split"].outputs.pop()),
    "no such result": spec(
        lambda m, ops: m.mlProgram.functions["main"].block_specializations["CoreML8"].outputs.append("nobody")
    ),
    "no functions": spec(lambda m, ops: m.mlProgram.functions.clear()),
    "no block": spec(lambda m, ops: setattr(m.mlProgram.functions["main"], "opset", "CoreML99")),
    "other description": spec(lambda m, ops: setattr(m.description.input[0], "name", "y")),
    "described size": spec(lambda m, ops: m.description.input[0].type.multiArrayType.shape.append(3)),
    "described type": spec(lambda m, ops: setattr(m.description.input[0].type.multiArrayType, "dataType", 131104)),
    "described image": spec(lambda m, ops: m.description.input[0].type.imageType.SetInParent()),
    "described output": spec(lambda m, ops: setattr(m.description.output[0], "name", "y")),
    "state input": spec(lambda m, ops: m.mlProgram.functions["main"].inputs[0].type.stateType.SetInParent()),
    **{f"weights cut to {keep}": cut(WEIGHTS, keep) for keep in (0, 1, 63, 64, 100, 127, 128, 200, 700)},
    "weights cut by one": edit(WEIGHTS, lambda data: data[:-1]),
    "weights of zeros": edit(WEIGHTS, lambda data: bytes(len(data))),
    **{f"version bit {bit}": flip(WEIGHTS, 4, bit) for bit in range(8)},
    # The first blob's metadata: mark, type, size, offset of the data, unused bits.
    **{f"mark byte {byte}": flip(WEIGHTS, 64 + byte, 3) for byte in range(4)},
    **{f"type bit {bit}": flip(WEIGHTS, 68, bit) for bit in range(5)},
    **{f"size byte {byte}": flip(WEIGHTS, 72 + byte, byte % 8) for byte in range(8)},
    **{f"offset byte {byte}": flip(WEIGHTS, 80 + byte, (byte + 5) % 8) for byte in range(8)},
    **{f"unused bits {byte}": flip(WEIGHTS, 88 + byte, 0) for byte in range(8)},
}

# Mutations of what carries no meaning for the result.
HARMLESS: dict[str, Mutation] = {
    "count of blobs": flip(WEIGHTS, 0, 5),
    "reserved bytes of the header": flip(WEIGHTS, 20, 1),
    "reserved bytes of a blob": flip(WEIGHTS, 64 + 40, 1),
    "bytes after the end": edit(WEIGHTS, lambda data: data + b"more"),
    "a file more": lambda path: (path / "notes.txt").write_text("hello") and None,
    "another author": manifest(lambda data: {**data, "author": "somebody"}),
    "metadata": spec(lambda m, ops: m.description.metadata.userDefined.update({"a": "b"})),
}


def copied(sound: Path, tmp_path: Path, mutation: Mutation) -> Path:
    path = tmp_path / "damaged.mlpackage"
    shutil.copytree(sound, path)
    mutation(path)
    return path


def check_sentence(error: InputError) -> None:
    text = str(error)
    assert "\n" not in text
    assert 20 < len(text) < 600
    assert ";" in text or "use one of" in text, "a sentence says what to do"


def check_run(path: Path) -> None:
    """Run a damaged package; it may be sound, or one sentence, and takes no more memory than it declares."""
    tracemalloc.start()
    try:
        Program.open(path).run(X)
    except InputError as error:
        check_sentence(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST


@pytest.mark.parametrize("name", FATAL)
def test_damage_is_told_in_one_sentence(name: str, sound: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path = copied(sound[0], tmp_path, FATAL[name])
    with pytest.raises(InputError) as error:
        run(path)
    check_sentence(error.value)


@pytest.mark.parametrize("error", [KeyError("main"), ValueError("shapes"), MemoryError("8 EiB"), OverflowError("2⁷⁰")])
def test_what_a_contradiction_makes_fail_is_one_sentence(
    error: Exception, sound: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(program, "require_known", fails)
    with pytest.raises(InputError, match=f"contradicts itself .{type(error).__name__}") as told:
        Program.open(sound[0])
    check_sentence(told.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_changes_change_nothing(name: str, sound: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path = copied(sound[0], tmp_path, HARMLESS[name])
    np.testing.assert_array_equal(run(path), sound[1])


@pytest.mark.parametrize("seed", range(180))
def test_flipped_bits_of_the_program_never_escape(seed: int, sound: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """A changed number in the program can be another sound program; anything else is one sentence."""
    random = np.random.default_rng(seed)
    size = (sound[0] / MODEL).stat().st_size
    check_run(copied(sound[0], tmp_path, flip(MODEL, int(random.integers(size)), int(random.integers(8)))))


def test_the_unmutated_blocks_run(blocks: Path) -> None:
    x = X["x"]
    rows, total = [], x.astype(np.float32)
    for row in range(4):
        total = total + x * np.float32(0.5) if row % 2 == 0 else total - 1
        rows.append(total)
    (found,) = Program.open(blocks).run(X).values()
    np.testing.assert_allclose(found, np.concatenate(rows), atol=4e-3)


@pytest.mark.parametrize("seed", range(100))
def test_flipped_bits_of_loops_and_branches_never_escape(
    seed: int, blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MOST_ROUNDS", 100)
    random = np.random.default_rng(seed)
    size = (blocks / MODEL).stat().st_size
    check_run(copied(blocks, tmp_path, flip(MODEL, int(random.integers(size)), int(random.integers(8)))))


def test_a_file_or_nothing_instead_of_a_package(tmp_path: Path) -> None:
    file = tmp_path / "p.mlpackage"
    for _ in range(2):
        with pytest.raises(InputError, match=r"is not an \.mlpackage") as error:
            Program.open(file)
        check_sentence(error.value)
        file.write_bytes(b"hello")


def test_the_unmutated_package_runs(sound: tuple[Path, np.ndarray]) -> None:
    assert sound[1].shape == (4, 12)
    assert np.isfinite(sound[1]).all()


def test_the_manifest_alone_is_refused_when_it_points_outside(sound: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Manifest\.json points outside the package"):
        run(copied(sound[0], tmp_path, model_outside))
