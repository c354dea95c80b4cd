"""Core ML programs cut into pipelines, and pipelines evaluated: the same numbers as the whole program's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mil_builder import ct, mb, save, spread

from export.targets.coreml_chunks import cut
from lorarar.errors import InputError
from lorarar.toolchains import quiet_toolchains
from runtime_py.component import NEURAL_ENGINE_BYTES
from runtime_py.lint import MOST_FEATURES
from runtime_py.mil import Program

X = {"x": spread(4, 32).astype(np.float16), "late": spread(4, 32, seed=9).astype(np.float16)}
LAYERS = 8
LAYER_BYTES = 32 * 32 * 2 + 32 * 2  # with its bias
MODEL = "Data/com.apple.CoreML/model.mlmodel"


def network(x: Any, late: Any) -> Any:
    """Eight layers with a skip over all of them, one weight that is used twice, and an input that comes late."""
    shared = spread(32, 32, seed=20, scale=0.3).astype(np.float16)
    first = mb.relu(x=mb.linear(x=x, weight=shared))
    hidden = first
    for layer in range(LAYERS):
        hidden = mb.linear(x=hidden, weight=spread(32, 32, seed=layer, scale=0.3).astype(np.float16))
        hidden = mb.relu(x=hidden) if layer % 2 else mb.tanh(x=hidden)
    small = mb.constexpr_affine_dequantize(
        quantized_data=(np.arange(32 * 32) % 251 - 125).astype(np.int8).reshape(32, 32),
        zero_point=np.int8(0),
        scale=np.float16(0.01),
        axis=np.int32(0),
    )
    return mb.add(x=mb.matmul(x=mb.add(x=hidden, y=late), y=small), y=mb.linear(x=first, weight=shared))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("whole") / "p.mlpackage", network, X)


def weights_of(package: Path) -> list[int]:
    folder = package / "Data" / "com.apple.CoreML" / "weights"
    return [file.stat().st_size for file in sorted(folder.iterdir(), key=lambda file: int(file.name.split("-")[0]))]


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
def test_chunks_compute_what_the_whole_does(whole: Path, tmp_path: Path, layers: int) -> None:
    package = Path(shutil.copytree(whole, tmp_path / "p.mlpackage"))
    limit = layers * LAYER_BYTES
    count = cut(package, limit)
    assert count >= (LAYERS + 1.5) / layers
    sizes = weights_of(package)
    # A weight of two chunks is in both; beside each blob are 64 bytes, 64 more at the start.
    assert len(sizes) == count and max(sizes) <= limit + LAYER_BYTES + 64 * (layers + 3)
    chunks, program = Program.open(package), Program.open(whole)
    assert chunks.inputs == program.inputs and chunks.outputs == program.outputs
    assert chunks.op_counts()["linear"] == program.op_counts()["linear"] == LAYERS + 2
    for mode in ("fp16", "fp32"):
        for name, value in program.run(X, mode).items():
            np.testing.assert_array_equal(chunks.run(X, mode)[name], value)


STACK = {"x": X["x"], "stack": spread(LAYERS, 4, 32, seed=3).astype(np.float16)}


def stacked(x: Any, stack: Any) -> Any:
    """Eight layers, each with its own part of a stacked input, as LoRAs come in; and a part that is an output too."""
    hidden, parts = x, mb.split(x=stack, num_splits=LAYERS, axis=0)
    for layer in range(LAYERS):
        factor = mb.squeeze(x=parts[layer], axes=[0])
        more = mb.matmul(x=mb.matmul(x=hidden, y=factor, transpose_y=True), y=factor)
        hidden = mb.tanh(x=mb.add(x=mb.linear(x=hidden, weight=spread(32, 32, seed=layer).astype(np.float16)), y=more))
    return hidden, mb.reshape(x=parts[0], shape=(4, 32))


def test_each_chunk_cuts_its_own_layers_out_of_a_stacked_input(tmp_path: Path) -> None:
    from coremltools.proto import Model_pb2

    package = save(tmp_path / "p.mlpackage", stacked, STACK)
    want = Program.open(package).run(STACK, "fp16")
    assert cut(package, 2 * LAYER_BYTES) >= LAYERS // 2
    have = Program.open(package).run(STACK, "fp16")
    for name, value in want.items():
        np.testing.assert_array_equal(have[name], value)
    chunks = Model_pb2.Model.FromString((package / MODEL).read_bytes()).pipeline.models
    for number, chunk in enumerate(chunks):
        assert [feature.name for feature in chunk.description.input if feature.name == "stack"] == ["stack"]
        assert len(chunk.description.output) <= 1 + (number == 0 or number == len(chunks) - 1)
        assert len(chunk.description.input) <= 2


def test_a_small_program_is_left_alone(whole: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(whole, tmp_path / "p.mlpackage"))
    assert cut(package, NEURAL_ENGINE_BYTES) == 1
    assert (package / MODEL).read_bytes() == (whole / MODEL).read_bytes()


def test_a_layer_larger_than_the_limit_stays_one_chunk(whole: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(whole, tmp_path / "p.mlpackage"))
    assert cut(package, LAYER_BYTES // 2) == 1


def test_the_same_program_is_cut_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        package = Path(shutil.copytree(whole, tmp_path / name))
        cut(package, 3 * LAYER_BYTES)
        made.append({file.relative_to(package): file.read_bytes() for file in package.rglob("*") if file.is_file()})
    assert made[0] == made[1]


def test_coremltools_reads_every_chunk(whole: Path, tmp_path: Path) -> None:
    """Its own parser as the oracle of what we write by hand: types, names, blobs and their places."""
    from coremltools.converters.mil.frontend.milproto.load import load

    package = Path(shutil.copytree(whole, tmp_path / "p.mlpackage"))
    count = cut(package, 3 * LAYER_BYTES)
    with quiet_toolchains():
        model = ct.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
        assert [feature.name for feature in spec.description.input] == list(X)
        weights = []
        for part in spec.pipeline.models:
            program = load(part, part.specificationVersion, model.weights_dir)
            operations = program.functions["main"].find_ops(op_type="linear")
            weights += [operation.weight.val for operation in operations]
    assert len(spec.pipeline.models) == count and len(weights) == LAYERS + 2
    for layer in range(LAYERS):
        assert any(
            np.array_equal(weight, spread(32, 32, seed=layer, scale=0.3).astype(np.float16)) for weight in weights
        )


def test_a_pipeline_of_coremltools_is_evaluated(whole: Path, tmp_path: Path) -> None:
    """Cut by another hand, with casts at the border and names that two models both use."""
    with quiet_toolchains():
        ct.models.utils.bisect_model(
            str(whole), str(tmp_path), merge_chunks_to_pipeline=True, check_output_correctness=False
        )
    pipeline = Program.open(tmp_path / "p_chunked_pipeline.mlpackage")
    for name, value in Program.open(whole).run(X).items():
        np.testing.assert_array_equal(pipeline.run(X)[name], value)


def retype(spec: Any) -> None:
    spec.pipeline.models[1].mlProgram.functions["main"].inputs[0].type.tensorType.dataType = 11
    spec.pipeline.models[1].description.input[0].type.multiArrayType.dataType = 65568


def make_again(spec: Any) -> None:
    spec.pipeline.models.add().CopyFrom(spec.pipeline.models[0])


def forget_the_last(spec: Any) -> None:
    del spec.pipeline.models[-1]


def be_a_network(spec: Any) -> None:
    spec.pipeline.models[0].neuralNetwork.layers.add()


def take_the_future(spec: Any) -> None:
    models = list(spec.pipeline.models)
    del spec.pipeline.models[:]
    spec.pipeline.models.extend(reversed(models))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (retype, "model 2 of the pipeline takes '.*' as fp32"),
        (make_again, "of the pipeline makes '.*' again"),
        (forget_the_last, "no model of the pipeline makes its output"),
        (be_a_network, "holds a Core ML neuralNetwork"),
        (take_the_future, "again; export it again|disagree on the inputs of the pipeline"),
    ],
)
def test_a_pipeline_that_contradicts_itself_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[Any], None], message: str
) -> None:
    from coremltools.proto import Model_pb2

    package = Path(shutil.copytree(whole, tmp_path / "p.mlpackage"))
    cut(package, 3 * LAYER_BYTES)
    spec = Model_pb2.Model.FromString((package / MODEL).read_bytes())
    change(spec)
    (package / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(InputError, match=message):
        Program.open(package)


MANY = {f"x{n:02}": spread(4, 32, seed=n).astype(np.float16) for n in range(60)}


def taking_one_at_a_time(*inputs: Any) -> Any:
    """Sixty inputs, each added after a layer of its own."""
    hidden: Any = None
    for n, given in enumerate(inputs):
        weight = spread(32, 32, seed=n, scale=0.3).astype(np.float16)
        hidden = mb.linear(x=given if hidden is None else mb.add(x=hidden, y=given), weight=weight)
    return hidden


def test_no_chunk_has_more_inputs_and_outputs_than_the_bound(tmp_path: Path) -> None:
    """By its weights the first chunk could have 50 of the layers."""
    from coremltools.proto import Model_pb2

    package = save(tmp_path / "p.mlpackage", taking_one_at_a_time, MANY)
    want = next(iter(Program.open(package).run(MANY, "fp16").values()))
    assert len(MANY) + 1 > MOST_FEATURES
    assert cut(package, 50 * LAYER_BYTES) == 2
    chunks = Model_pb2.Model.FromString((package / MODEL).read_bytes()).pipeline.models
    counts = [len(chunk.description.input) + len(chunk.description.output) for chunk in chunks]
    assert max(counts) <= MOST_FEATURES and sum(counts) == len(MANY) + 1 + 2
    np.testing.assert_array_equal(next(iter(Program.open(package).run(MANY, "fp16").values())), want)
