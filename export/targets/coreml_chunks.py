"""Cut a saved ML program into chunks that the Neural Engine takes, in one Core ML pipeline that apps load as one model.

This works on the saved package (MIL.proto, Model.proto, MIL's blob storage), so that a program of SDXL's size is cut in
seconds, without its weights in memory, and to the same bytes each time. coremltools' `bisect_model` halves a program by
loading it twice, orders what crosses the border by chance, and passes it on in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from coremltools.proto import FeatureTypes_pb2, Model_pb2
from jaxtyping import Float, Int

from runtime_py.lint import MOST_FEATURES
from runtime_py.mil.blob import ALIGNMENT, HEADER, METADATA, SENTINEL, VERSION
from runtime_py.mil.values import tensor_type

_PLACES = 200  # where a program may be cut
_NEVER = 1e18  # bytes that would cross where a type can't; infinity could not be subtracted again
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
        """Return the numbers of steps after which a chunk ends; the last chunk ends with the program.

        As few chunks as keep to the limit and to MOST_FEATURES, and of those that the fewest bytes cross.
        """
        reached, count = np.cumsum(self._weights()), len(self.steps)
        if reached[-1] <= limit:
            return [count]
        crossing = self._crossing()
        ends = _places(reached, crossing)
        over = self._features([0, *ends]) > MOST_FEATURES
        sizes = np.array([0, *(reached[end - 1] for end in ends)])
        over = over.astype(int) + (sizes[None, :] - sizes[:, None] > limit)
        # The best way to each end: how often a bound is broken, chunks, bytes that cross, and the end before it.
        best: list[tuple[int, int, float, int]] = [(0, 0, 0.0, -1)]
        for j in range(1, len(ends) + 1):
            leaves = float(crossing[ends[j - 1]]) if j < len(ends) else 0.0
            best.append(min((best[i][0] + int(over[i, j]), best[i][1] + 1, best[i][2] + leaves, i) for i in range(j)))
        found, at = [], len(ends)
        while at > 0:
            found.append(ends[at - 1])
            at = best[at][3]
        return found[::-1]

    def _features(self, borders: list[int]) -> Int[np.ndarray, "borders borders"]:
        """Return the inputs and outputs of a chunk from one of these numbers of steps (row) to another (column)."""
        part = np.searchsorted(borders, np.arange(len(self.steps)), side="right") - 1
        order = {position: number for number, position in enumerate(self.steps)}
        makers = {name: -1 for name in self.types if name not in self.makers}  # the inputs: before the first part
        makers |= {name: int(part[order[maker]]) for name, maker in self.makers.items() if maker in order}
        reads: dict[str, set[int]] = {name: set() for name in makers}
        for number, position in enumerate(self.steps):
            for name in self.reads_of_chunk(position):
                reads[name].add(int(part[number]))
        for name in self.block.outputs:
            reads[name].add(len(borders))
        moved = [name for name, parts in reads.items() if parts - {makers[name]}]
        maker = np.array([makers[name] for name in moved])
        read = np.zeros((len(moved), len(borders) + 1), int)  # up to each part, and after the last
        for row, name in enumerate(moved):
            read[row, [min(each, len(borders)) for each in reads[name]]] = 1
        before = np.cumsum(np.pad(read, ((0, 0), (1, 0))), axis=1)
        count = np.zeros((len(borders), len(borders)), int)
        for i in range(len(borders)):
            for j in range(i + 1, len(borders)):
                takes = (maker < i) & (before[:, j] > before[:, i])
                gives = (maker >= i) & (maker < j) & (before[:, -1] > before[:, j])
                count[i, j] = takes.sum() + gives.sum()
        return count

    def reads_of_chunk(self, position: int) -> list[str]:
        """Return the names that an operation, with what is repeated for it, reads from outside its chunk at most."""
        readers = [position, *self.repeated_for(position)]
        return [name for reader in readers for name in self.reads(reader) if self.makers.get(name) not in self.repeated]

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
        """Return the bytes that would cross a cut after each number of steps; _NEVER where a type can't cross."""
        order = {position: number for number, position in enumerate(self.steps)}
        last = {name: number for position, number in order.items() for name in self.reads(position)}
        change = np.zeros(len(self.steps) + 2)
        for name, number in last.items():
            first = order.get(self.makers.get(name, -1))
            if first is not None:
                kind = tensor_type(self.types[name], name)
                size = kind.nbytes if kind.dtype.name in _FEATURES else _NEVER
                change[first + 1] += size
                change[number + 1] -= size
        return np.cumsum(change)


def _places(reached: Int[np.ndarray, " steps"], crossing: Float[np.ndarray, " steps_and_2"]) -> list[int]:
    """Return the numbers of steps after which a chunk may end: where the fewest bytes cross, _PLACES in all.

    They are spread evenly over the weights, and the last is the end of the program.
    """
    share = np.minimum(reached * _PLACES // max(reached[-1], 1), _PLACES - 1)
    groups = [np.flatnonzero(share == each) for each in np.unique(share)]
    found = {int(group[crossing[group + 1].argmin()]) + 1 for group in groups}
    return sorted({end for end in found if crossing[end] < _NEVER} | {len(reached)})


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
