"""A function of a Core ML program as a plan: steps in running order, and what each may forget (MIL.proto: Function)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.blob import Blob
from runtime_py.mil.ops import OPS, Op
from runtime_py.mil.package import Package
from runtime_py.mil.values import ListType, StateType, TensorType, Type, Value, immediate, tensor_type, value_type

Constant = Value | Blob


@dataclass(frozen=True)
class Step:
    """One operation to run."""

    type: str
    position: int  # in the function's list of operations, from 0, with those of nested blocks where they stand
    inputs: dict[str, tuple[str, ...]]  # one name, but for an input that is several values
    outputs: dict[str, Type]
    frees: tuple[str, ...] = ()  # names no later step reads
    blocks: tuple[Block, ...] = ()  # of a loop: its condition and its body; of a branch: what is done in either case

    @property
    def op(self) -> Op:
        return OPS[self.type]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it reads, its blocks' included."""
        own = [name for names in self.inputs.values() for name in names]
        return (*own, *(name for block in self.blocks for name in block.reads))

    @property
    def tensors(self) -> dict[str, TensorType]:
        """Its outputs that are tensors."""
        return {name: kind for name, kind in self.outputs.items() if isinstance(kind, TensorType)}

    def __str__(self) -> str:
        return f"{self.type} {next(iter(self.outputs), '')!r} (operation {self.position})"


@dataclass(frozen=True)
class Block:
    """Steps within a step. Names are the function's: each is made once, in a block or outside of it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]

    @cached_property
    def made(self) -> set[str]:
        """Every name that it makes or is given."""
        return {*self.inputs, *(name for step in self.steps for name in step.outputs)}

    @cached_property
    def reads(self) -> set[str]:
        """Every name that it reads and that was made outside of it."""
        return {*self.outputs, *(name for step in self.steps for name in step.names)} - self.made


@dataclass(frozen=True)
class FunctionPlan:
    """A function ready to run: its steps in order."""

    name: str
    inputs: dict[str, TensorType]
    outputs: dict[str, Type]
    constants: dict[str, Constant]
    steps: tuple[Step, ...]
    op_types: tuple[str, ...]  # every operation as stored, with the constants and those of nested blocks
    states: dict[str, TensorType] = field(default_factory=dict)

    @property
    def every_step(self) -> Iterator[Step]:
        """Yield its steps and those of nested blocks."""
        yield from _every(self.steps)


def _every(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        for block in step.blocks:
            yield from _every(block.steps)


def operations(block: Any) -> Iterator[Any]:
    """Yield a block's operations and those of the blocks in them, in the order of storage."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from operations(inner)


def require_known(package: Package) -> None:
    """Refuse, with InputError, a package with operations that no table has."""
    found = unknown_operations(named for part in package.parts for named in part.mlProgram.functions.items())
    if found:
        raise InputError(f"{package.root}: operations that this evaluator does not know: {found}; export without them")


def unknown_operations(functions: Iterable[tuple[str, Any]], shown: int = 3) -> str:
    """Name every operation type of functions that no table has, with its first places; a large model has hundreds."""
    places: dict[str, list[str]] = {}
    for name, function in functions:
        for position, operation in enumerate(operations(block_of(name, function))):
            if operation.type != "const" and operation.type not in OPS:
                output = operation.outputs[0].name if operation.outputs else ""
                places.setdefault(operation.type, []).append(f"{output!r} ({name}, operation {position})")
    return ", ".join(
        f"{kind if kind.isidentifier() else repr(kind)} {', '.join(found[:shown])}"
        + (f" … {len(found)} in all" if len(found) > shown else "")
        for kind, found in places.items()
    )


def build(name: str, function: Any, package: Package) -> FunctionPlan:
    """Make the plan of a function; every constant's storage is checked, and none is read."""
    return _Builder(name, package).function(function)


def block_of(name: str, function: Any) -> Any:
    """Return the block of a function that is for its own opset."""
    block = function.block_specializations.get(function.opset)
    if block is None:
        raise InputError(f"function {name} has no block for its opset {function.opset!r}; export the package again")
    return block


class _Builder:
    """Makes one function's plan, operation by operation.

    Blocks beside each other may use the same names; within a plan each value has a name of its own.
    """

    def __init__(self, name: str, package: Package) -> None:
        self.name, self.package = name, package
        self.types: dict[str, Type] = {}
        self.constants: dict[str, Constant] = {}
        self.op_types: list[str] = []

    def function(self, function: Any) -> FunctionPlan:
        block = block_of(self.name, function)
        scope: dict[str, str] = {}
        given = {each.name: self._declare(each, "input", scope) for each in function.inputs}
        kinds = {name: self.types[name] for name in given.values()}
        states = {name: kind.tensor for name, kind in kinds.items() if isinstance(kind, StateType)}
        inputs = {name: kind for name, kind in kinds.items() if isinstance(kind, TensorType)}
        for name in kinds.keys() - states.keys() - inputs.keys():
            raise InputError(f"input {name!r} is a {kinds[name]}, neither a tensor nor a state; export it again")
        steps, outputs = self._steps(block, scope, "the function's")
        return FunctionPlan(
            self.name,
            inputs,
            {output: self.types[output] for output in outputs},
            self.constants,
            with_frees(steps, {*self.constants, *states, *outputs}),
            tuple(self.op_types),
            states,
        )

    def _declare(self, named: Any, role: str, scope: dict[str, str]) -> str:
        """Note a name's type; return its name in the plan."""
        if named.name in scope:
            raise InputError(f"{named.name!r} is made twice in {self.name}; the package is damaged, export it again")
        name = str(named.name)
        while name in self.types:
            name += "'"
        scope[named.name] = name
        self.types[name] = value_type(named.type, f"{role} {named.name!r}")
        return name

    def _steps(self, block: Any, scope: dict[str, str], whose: str) -> tuple[list[Step], tuple[str, ...]]:
        """Make a block's steps; `scope` has the names that are there before it, by those that the block calls them."""
        known = {*scope.values()}
        steps: list[Step] = []
        for operation in block.operations:
            position = len(self.op_types)
            self.op_types.append(operation.type)
            if operation.type == "const":
                called = _const_output(operation)
                name = self._declare(operation.outputs[0], "output", scope)
                self.constants[name] = _constant(operation.attributes["val"], self.package, f"constant {called!r}")
            else:
                steps.append(self._step(operation, position, scope))
        outputs = tuple(scope.get(name, name) for name in block.outputs)
        return _late_constants(steps, known | self.constants.keys(), outputs, whose), outputs

    def _step(self, operation: Any, position: int, scope: dict[str, str]) -> Step:
        step = Step(operation.type, position, {}, {})
        for parameter, value in operation.attributes.items():
            if parameter != "name":
                step.inputs[parameter] = (self._own(step, parameter, value),)
        for parameter, argument in operation.inputs.items():
            step.inputs[parameter] = tuple(
                scope.get(binding.name, binding.name)
                if binding.WhichOneof("binding") == "name"
                else self._own(step, f"{parameter}.{index}", binding.value)
                for index, binding in enumerate(argument.arguments)
            )
        _check_parameters(step)
        blocks = tuple(self._block(inner, dict(scope)) for inner in operation.blocks)
        made = [self._declare(output, "output", scope) for output in operation.outputs]
        return replace(step, blocks=blocks, outputs={name: self.types[name] for name in made})

    def _block(self, block: Any, scope: dict[str, str]) -> Block:
        given = tuple(self._declare(each, "input", scope) for each in block.inputs)
        steps, outputs = self._steps(block, scope, "a block's")
        made = Block(given, outputs, tuple(steps))
        # The next round reads again what was made outside, and whoever runs the block reads what it gives.
        return replace(made, steps=with_frees(steps, made.reads | set(outputs)))

    def _own(self, step: Step, parameter: str, value: Any) -> str:
        """Note a value that is written in place, as iOS 16's compressed weights keep theirs, as a constant."""
        name = f"{step.position}.{parameter}"  # no name of a program starts with a digit
        self.constants[name] = _constant(value, self.package, f"{parameter} of {step}")
        return name


def _const_output(operation: Any) -> str:
    if len(operation.outputs) != 1 or "val" not in operation.attributes:
        raise InputError("a const operation of the program holds no value; the package is damaged, export it again")
    return str(operation.outputs[0].name)


def _constant(value: Any, package: Package, what: str) -> Constant:
    kind = value_type(value.type, what)
    stored = value.WhichOneof("value")
    held = value.immediateValue.WhichOneof("value") if stored == "immediateValue" else None
    if stored == "blobFileValue":
        named = value.blobFileValue
        return package.blob(named.fileName, named.offset, tensor_type(value.type, what), what)
    if held == "tensor" and isinstance(kind, TensorType):
        return immediate(value.immediateValue.tensor, kind, what)
    if held == "list" and isinstance(kind, ListType):
        # A classifier's classes: strings or numbers.
        return np.array([_constant(each, package, what) for each in value.immediateValue.list.values])
    raise InputError(f"{what} is stored neither as a tensor nor in a weights file; export the package again")


def _check_parameters(step: Step) -> None:
    missing = sorted(step.op.required - step.inputs.keys())
    if missing:
        raise InputError(f"{step} lacks its input {missing[0]}; the package is damaged, export it again")
    for parameter, names in step.inputs.items():
        if parameter not in step.op.parameters:
            raise InputError(
                f"{step} has an input {parameter} that this evaluator does not know; export for iOS 18 or older"
            )
        if len(names) != 1 and parameter not in step.op.lists:
            raise InputError(f"{step} has {len(names)} tensors for its input {parameter}, not one; export it again")


def _late_constants(steps: list[Step], known: set[str], outputs: tuple[str, ...], whose: str) -> list[Step]:
    """Move every compressed weight to just before its first reader, and check that every name is there when it is read.

    Packages list them first, and all of them together, dense, are larger than what the rest of the program needs.
    """
    waiting: dict[str, Step] = {}
    ordered: list[Step] = []

    def emit(step: Step) -> None:
        need(step.names, str(step))
        ordered.append(step)
        known.update(step.outputs)

    def need(names: Iterable[str], reader: str) -> None:
        for name in names:
            if name in waiting:
                late = waiting[name]
                for output in late.outputs:
                    del waiting[output]
                emit(late)
            elif name not in known:
                raise InputError(f"{reader} reads {name!r}, which nothing before it makes; export the package again")

    for step in steps:
        if step.type.startswith("constexpr_"):
            waiting.update(dict.fromkeys(step.outputs, step))
        else:
            emit(step)
    need(outputs, f"{whose} result")
    return ordered


def with_frees(steps: list[Step], keep: set[str]) -> tuple[Step, ...]:
    """Give each step the names that nothing after it reads; those of `keep` are never forgotten."""
    later = set(keep)
    planned = []
    for step in reversed(steps):
        # A step's own outputs are among them when nothing reads them.
        frees = tuple({*step.names, *step.outputs} - later)
        later.update(frees)
        planned.append(replace(step, frees=frees))
    return tuple(reversed(planned))
