"""A function of a Core ML program as a plan: steps in running order, and what each may forget (MIL.proto: Function)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lorarar.errors import InputError
from runtime_py.mil.blob import Blob
from runtime_py.mil.ops import LIST_INPUT, OPS, Op
from runtime_py.mil.package import Package
from runtime_py.mil.values import TensorType, Value, immediate, tensor_type

Constant = Value | Blob


@dataclass(frozen=True)
class Step:
    """One operation to run."""

    type: str
    position: int  # in the function's list of operations, from 0
    inputs: dict[str, tuple[str, ...]]  # one name, but for an input that is a list of tensors
    outputs: dict[str, TensorType]
    frees: tuple[str, ...] = ()  # names no later step reads

    @property
    def op(self) -> Op:
        return OPS[self.type]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it reads."""
        return tuple(name for names in self.inputs.values() for name in names)

    def __str__(self) -> str:
        return f"{self.type} {next(iter(self.outputs), '')!r} (operation {self.position})"


@dataclass(frozen=True)
class FunctionPlan:
    """A function ready to run: its steps in order."""

    name: str
    inputs: dict[str, TensorType]
    outputs: dict[str, TensorType]
    constants: dict[str, Constant]
    steps: tuple[Step, ...]
    op_types: tuple[str, ...]  # every operation as stored, with the constants


def unknown_operations(functions: Iterable[tuple[str, Any]], shown: int = 3) -> str:
    """Name every operation type of functions that no table has, with its first places; a large model has hundreds."""
    places: dict[str, list[str]] = {}
    for name, function in functions:
        for position, operation in enumerate(_block(name, function).operations):
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
    block = _block(name, function)
    inputs = {given.name: tensor_type(given.type, f"input {given.name!r}") for given in function.inputs}
    types = dict(inputs)
    constants: dict[str, Constant] = {}
    steps = []
    for position, operation in enumerate(block.operations):
        made = {output.name: tensor_type(output.type, f"output {output.name!r}") for output in operation.outputs}
        if types.keys() & made.keys():
            raise InputError(f"{next(iter(made))!r} is made twice in {name}; the package is damaged, export it again")
        types.update(made)
        if operation.type == "const":
            output = _const_output(operation)
            constants[output] = _constant(operation.attributes["val"], package, f"constant {output!r}")
        else:
            steps.append(_step(operation, position, made, constants, package))
    ordered = _late_constants(steps, {*inputs, *constants}, tuple(block.outputs))
    return FunctionPlan(
        name,
        inputs,
        {output: types[output] for output in block.outputs},
        constants,
        with_frees(ordered, {*constants, *block.outputs}),
        tuple(operation.type for operation in block.operations),
    )


def _block(name: str, function: Any) -> Any:
    block = function.block_specializations.get(function.opset)
    if block is None:
        raise InputError(f"function {name} has no block for its opset {function.opset!r}; export the package again")
    return block


def _const_output(operation: Any) -> str:
    if len(operation.outputs) != 1 or "val" not in operation.attributes:
        raise InputError("a const operation of the program holds no value; the package is damaged, export it again")
    return str(operation.outputs[0].name)


def _constant(value: Any, package: Package, what: str) -> Constant:
    kind = tensor_type(value.type, what)
    stored = value.WhichOneof("value")
    if stored == "blobFileValue":
        return package.blob(value.blobFileValue.fileName, value.blobFileValue.offset, kind, what)
    if stored == "immediateValue" and value.immediateValue.WhichOneof("value") == "tensor":
        return immediate(value.immediateValue.tensor, kind, what)
    raise InputError(f"{what} is stored neither as a tensor nor in a weights file; export the package again")


def _step(
    operation: Any, position: int, outputs: dict[str, TensorType], constants: dict[str, Constant], package: Package
) -> Step:
    step = Step(operation.type, position, {}, outputs)

    def own_constant(parameter: str, value: Any) -> str:
        # Values written in place (iOS 16's compressed weights keep theirs as attributes) become constants too.
        name = f"{position}.{parameter}"  # no name of a program starts with a digit
        constants[name] = _constant(value, package, f"{parameter} of {step}")
        return name

    for parameter, value in operation.attributes.items():
        if parameter != "name":
            step.inputs[parameter] = (own_constant(parameter, value),)
    for parameter, argument in operation.inputs.items():
        step.inputs[parameter] = tuple(
            binding.name
            if binding.WhichOneof("binding") == "name"
            else own_constant(f"{parameter}.{index}", binding.value)
            for index, binding in enumerate(argument.arguments)
        )
    _check_parameters(step)
    return step


def _check_parameters(step: Step) -> None:
    missing = sorted(step.op.required - step.inputs.keys())
    if missing:
        raise InputError(f"{step} lacks its input {missing[0]}; the package is damaged, export it again")
    for parameter, names in step.inputs.items():
        if parameter not in step.op.parameters:
            raise InputError(
                f"{step} has an input {parameter} that this evaluator does not know; export for iOS 18 or older"
            )
        if len(names) != 1 and parameter != LIST_INPUT:
            raise InputError(f"{step} has {len(names)} tensors for its input {parameter}, not one; export it again")


def _late_constants(steps: list[Step], known: set[str], outputs: tuple[str, ...]) -> list[Step]:
    """Move every compressed weight to just before its first reader.

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
    need(outputs, "the function's result")
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
