"""Cut a saved ML program into chunks that the Neural Engine takes, in one Core ML pipeline that apps load as one model.

This works on the saved package (MIL.proto, Model.proto, MIL's blob storage), so that a program of SDXL's size is cut in
seconds, without its weights in memory, and to the same bytes each time. coremltools' `bisect_model` halves a program by
loading it twice, orders what crosses the border by chance, and passes it on in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from coremltools.proto import FeatureTypes_pb2, Model_pb2

from runtime_py.mil.blob import ALIGNMENT, HEADER, METADATA, SENTINEL, VERSION
from runtime_py.mil.values import tensor_type

_SLACK = 0.05  # of a chunk, by which a cut may move to where less crosses it
_VIEWS = {"slice_by_index", "slice_by_size", "split", "squeeze", "expand_dims", "reshape", "transpose"}
"""Operations that only look at numbers in another way."""
_FEATURES = {"fp16": "FLOAT16", "fp32": "FLOAT32", "int32": "INT32"}
"""What may cross a cut: the types that Core ML hands from model to model."""


def cut(package: Path, limit: int) -> int:
    """Cut a package in place where its weights exceed `limit` bytes, and return the number of chunks.

    The chunks come in running order; each takes inputs of the whole and outputs of any chunk before it.
    """
    root = package / "Data" / "com.apple.CoreML"
    spec = Model_pb2.Model.FromString((root / "model.mlmodel").read_bytes())
    program = _Program.read(spec, root)
    ends = program.cuts(limit)
    if len(ends) == 1:
        return 1
    whole = Model_pb2.Model(specificationVersion=spec.specificationVersion)
    whole.description.CopyFrom(spec.description)
    for number, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
        whole.pipeline.names.append(f"chunk{number + 1}")
        chunk = whole.pipeline.models.add()
        _write_chunk(chunk, program, first, last)
        name = f"weights/{number}-weight.bin"
        with (root / name).open("xb") as file:
            _move_weights(chunk, program.stored, file, f"@model_path/{name}")
    (root / "model.mlmodel").write_bytes(whole.SerializeToString(deterministic=True))
    (root / "weights" / "weight.bin").unlink()
    return len(ends)


@dataclass(frozen=True)
class _Program:
    """A program's only function: what each name is, and which operations read it.

    Constants are repeated in every chunk that needs them, and so are views of the inputs: else the first chunk would
    cut all layers out of the stacked LoRAs, and hand hundreds of slices on to the others.
    """

    spec: Any
    function: Any
    block: Any
    stored: np.ndarray  # weight.bin, mapped
    repeated: frozenset[int]  # positions of constants, and of views of inputs
    steps: tuple[int, ...]  # those of all other operations, in running order
    makers: Mapping[str, int]  # name → position of its operation
    types: Mapping[str, Any]  # name → ValueType

    @classmethod
    def read(cls, spec: Any, root: Path) -> _Program:
        (function,) = spec.mlProgram.functions.values()
        block = function.block_specializations[function.opset]
        made = [(output, i) for i, operation in enumerate(block.operations) for output in operation.outputs]
        types = {given.name: given.type for given in function.inputs} | {output.name: output.type for output, _ in made}
        repeated = _repeated(block, {given.name for given in function.inputs})
        steps = tuple(i for i in range(len(block.operations)) if i not in repeated)
        stored = np.memmap(root / "weights" / "weight.bin", np.uint8, mode="r")
        return cls(spec, function, block, stored, repeated, steps, {output.name: i for output, i in made}, types)

    def reads(self, position: int) -> list[str]:
        """Return the names that an operation reads."""
        return _reads(self.block.operations[position])

    def repeated_for(self, position: int) -> list[int]:
        """Return the positions of what is repeated for an operation, each after those that it is made of."""
        found: dict[int, None] = {}

        def visit(reader: int) -> None:
            for name in self.reads(reader):
                maker = self.makers.get(name)
                if maker in self.repeated and maker not in found:
                    visit(maker)
                    found[maker] = None

        visit(position)
        return list(found)

    def cuts(self, limit: int) -> list[int]:
        """Return the numbers of steps after which a chunk ends; the last chunk ends with the program."""
        reached, crossing = np.cumsum(self._weights()), self._crossing()
        for count in range(max(1, math.ceil(reached[-1] / limit)), len(reached) + 1):
            ends = [_near(reached, crossing, reached[-1] * part / count, count) for part in range(1, count)]
            ends.append(len(reached))
            sizes = np.diff([0, *(reached[end - 1] for end in ends)])
            if count == 1 or (len(set(ends)) == count and sizes.max() <= limit):
                return ends
        return [len(reached)]  # one layer alone is larger

    def _weights(self) -> list[int]:
        """Return the bytes of the weights that each step is the first to need."""
        seen: set[int] = set()
        sizes = []
        for step in self.steps:
            new = [position for position in self.repeated_for(step) if position not in seen]
            seen.update(new)
            values = (value for i in new for value in _values(self.block.operations[i]) if _is_blob(value))
            sizes.append(sum(tensor_type(value.type, "weight").nbytes for value in values))
        return sizes

    def _crossing(self) -> np.ndarray:
        """Return the bytes that would cross a cut after each number of steps; infinite where a type can't cross."""
        order = {position: number for number, position in enumerate(self.steps)}
        last = {name: number for position, number in order.items() for name in self.reads(position)}
        change = np.zeros(len(self.steps) + 2)
        for name, number in last.items():
            first = order.get(self.makers.get(name, -1))
            if first is not None:
                kind = tensor_type(self.types[name], name)
                # For infinity, which can't be subtracted again, stands a number that no sum of sizes reaches.
                size = kind.nbytes if kind.dtype.name in _FEATURES else 1e18
                change[first + 1] += size
                change[number + 1] -= size
        return np.cumsum(change)


def _near(reached: np.ndarray, crossing: np.ndarray, wanted: float, count: int) -> int:
    """Return the number of steps, near a wanted size of weights, after which a cut is crossed by the fewest bytes."""
    slack = _SLACK * reached[-1] / count
    near = np.flatnonzero(np.abs(reached - wanted) <= slack)
    if not near.size:
        near = np.array([int(np.abs(reached - wanted).argmin())])
    return int(near[crossing[near + 1].argmin()]) + 1


def _write_chunk(chunk: Any, program: _Program, first: int, last: int) -> None:
    """Fill a model with the steps from `first` to before `last` and what is repeated for them."""
    steps = program.steps[first:last]
    repeated = {position for step in steps for position in program.repeated_for(step)}
    kept = sorted({*repeated, *steps})
    made = {output.name for position in kept for output in program.block.operations[position].outputs}
    read = dict.fromkeys(name for position in kept for name in program.reads(position))
    inputs = [name for name in read if name not in made]
    later = {name for step in program.steps[last:] for name in program.reads(step)} | set(program.block.outputs)
    outputs = [
        output.name for step in steps for output in program.block.operations[step].outputs if output.name in later
    ]
    chunk.specificationVersion = program.spec.specificationVersion
    chunk.mlProgram.version = program.spec.mlProgram.version
    function = chunk.mlProgram.functions["main"]
    function.opset = program.function.opset
    for name in inputs:
        function.inputs.add(name=name).type.CopyFrom(program.types[name])
    block = function.block_specializations[function.opset]
    block.outputs.extend(outputs)
    block.operations.extend(program.block.operations[position] for position in kept)
    for field, names in ((chunk.description.input, inputs), (chunk.description.output, outputs)):
        field.extend(_feature(program, name) for name in names)


def _feature(program: _Program, name: str) -> Any:
    """Return the description of a tensor: the whole program's own, or a new one for a value that crosses a cut."""
    description = program.spec.description
    for known in (*description.input, *description.output):
        if known.name == name:
            return known
    kind = tensor_type(program.types[name], name)
    made = Model_pb2.FeatureDescription(name=name)
    made.type.multiArrayType.shape.extend(size for size in kind.shape if size is not None)
    data_type = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    made.type.multiArrayType.dataType = data_type.Value(_FEATURES[kind.dtype.name])
    return made


def _move_weights(chunk: Any, stored: np.ndarray, file: BinaryIO, name: str) -> None:
    """Copy the blobs that a chunk refers to into a file of its own, and let it refer to that."""
    operations = next(iter(chunk.mlProgram.functions["main"].block_specializations.values())).operations
    values = [value for operation in operations for value in _values(operation) if _is_blob(value)]
    offsets = dict.fromkeys(value.blobFileValue.offset for value in values)
    file.write(HEADER.pack(len(offsets), VERSION).ljust(ALIGNMENT, b"\0"))
    for offset in offsets:
        mark, code, size, start, spare = METADATA.unpack(stored[offset : offset + METADATA.size].tobytes())
        assert mark == SENTINEL
        offsets[offset] = place = file.tell()
        file.write(METADATA.pack(mark, code, size, place + ALIGNMENT, spare).ljust(ALIGNMENT, b"\0"))
        stored[start : start + size].tofile(file)
        file.write(b"\0" * (-file.tell() % ALIGNMENT))
    for value in values:
        value.blobFileValue.fileName = name
        value.blobFileValue.offset = offsets[value.blobFileValue.offset]


def _repeated(block: Any, inputs: Set[str]) -> frozenset[int]:
    """Return the positions of constants, and of views of inputs or of such views that are no output."""
    found, free = set(), set(inputs)  # the names that are inputs, or made of inputs and constants alone
    for position, operation in enumerate(block.operations):
        made = {output.name for output in operation.outputs}
        is_view = operation.type in _VIEWS and free.issuperset(_reads(operation)) and made.isdisjoint(block.outputs)
        if is_view or _is_constant(operation):
            found.add(position)
            free |= made
    return frozenset(found)


def _reads(operation: Any) -> list[str]:
    arguments = operation.inputs.values()
    return [binding.name for argument in arguments for binding in argument.arguments if binding.name]


def _is_constant(operation: Any) -> bool:
    return operation.type == "const" or operation.type.startswith("constexpr_")


def _is_blob(value: Any) -> bool:
    return value.WhichOneof("value") == "blobFileValue"


def _values(operation: Any) -> Iterator[Any]:
    """Yield the Value messages of an operation: its attributes, and arguments that are written in place."""
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        yield from (binding.value for binding in argument.arguments if binding.WhichOneof("binding") == "value")
