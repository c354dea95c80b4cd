"""Read a program's text, `model.mil` of a compiled model, into MIL.proto's messages.

Written after compiled models that were published; Apple does not document the text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from lorarar.errors import InputError
from runtime_py.mil.values import DTYPES, DType

_TOKEN = re.compile(
    r"""\s+|(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F.]+[pP][-+]?\d+|inf\b|nan\b|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))
    |(?P<name>[A-Za-z_][\w.]*)|(?P<mark>->|[()\[\]{}<>,=;?])""",
    re.VERBOSE,
)
_NUMBERS = {kind.name: (number, kind) for number, kind in DTYPES.items()}
_TYPES = frozenset({"tensor", "list", "dict", "tuple", "state", *_NUMBERS})


def read_program(text: str, path: Path, program: Any) -> None:
    """Fill an empty Program message from its text; `path` stands in errors. Raises InputError for what is none."""
    parser = _Parser(text, path)
    try:
        parser.program(program)
    except InputError:
        raise
    # Numbers that no type holds, and types within types without end.
    except (KeyError, ValueError, OverflowError, TypeError, RecursionError) as error:
        raise InputError(f"{parser.where()} cannot be read; copy the model again") from error


class _Parser:
    """Reads a program's text by recursive descent, straight into messages."""

    def __init__(self, text: str, path: Path) -> None:
        self.path, self.text, self.at = path, text, 0
        self.token, self.kind = "", ""
        self.start = 0
        self._next()

    def program(self, program: Any) -> None:
        self._expect("program", "(")
        self._skip_to(")")
        if self.token == "[":
            self._next()
            self._skip_to("]")
        self._expect("{")
        program.version = 1
        while self.token == "func":
            self._function(program)
        self._expect("}")
        if self.kind != "end":
            self._fail("the end of the text")

    def _function(self, program: Any) -> None:
        self._next()
        function = program.functions[self._name()]
        self._expect("<")
        function.opset = self._name()
        self._expect(">", "(")
        while self.token != ")":
            self._named(function.inputs.add())
            self._comma(")")
        self._next()
        if self.token == "[":
            self._next()
            self._skip_to("]")
        block = function.block_specializations[function.opset]
        self._expect("{")
        while self.token != "}":
            self._statement(block.operations.add())
        self._expect("}", "->", "(")
        while self.token != ")":
            block.outputs.append(self._name())
            self._comma(")")
        self._expect(")", ";")

    def _statement(self, operation: Any) -> None:
        """TYPE name, … = operation(input = …, …)[attribute = …, …];  without results nothing stands before it."""
        if self.token in _TYPES:
            while True:
                self._named(operation.outputs.add())
                if self.token != ",":
                    break
                self._next()
            self._expect("=")
        operation.type = self._name()
        self._expect("(")
        while self.token != ")":
            self._argument(operation.inputs[self._assigned()])
            self._comma(")")
        self._next()
        if self.token in ("(", "{"):
            raise InputError(
                f"{self.where()}: {operation.type} has blocks, which are not read from text; give the .mlpackage"
            )
        if self.token == "[":
            self._next()
            while self.token != "]":
                self._value(operation.attributes[self._assigned()])
                self._comma("]")
            self._next()
        self._expect(";")

    def _argument(self, argument: Any) -> None:
        if self.token == "(":
            self._next()
            while self.token != ")":
                self._binding(argument.arguments.add())
                self._comma(")")
            self._next()
        else:
            self._binding(argument.arguments.add())

    def _binding(self, binding: Any) -> None:
        after = self.text[self.at : self.at + 1]
        if self.token in _TYPES and after in ("<", "("):
            self._value(binding.value)
        else:
            binding.name = self._name()

    def _named(self, named: Any) -> None:
        self._type(named.type)
        named.name = self._name()

    def _type(self, made: Any) -> None:
        kind = self._name()
        if kind in _NUMBERS:
            made.tensorType.dataType, made.tensorType.rank = _NUMBERS[kind][0], 0
            return
        self._expect("<")
        if kind == "tensor":
            self._tensor(made.tensorType)
        elif kind == "state":
            self._type(made.stateType.wrappedType)
        elif kind == "list":
            self._type(made.listType.type)
            self._expect(",")
            self._next()  # a number, or ? of an open length
        elif kind == "dict":
            self._type(made.dictionaryType.keyType)
            self._expect(",")
            self._type(made.dictionaryType.valueType)
        elif kind == "tuple":
            while self.token != ">":
                self._type(made.tupleType.types.add())
                self._comma(">")
        else:
            self._fail("a type")
        self._expect(">")

    def _tensor(self, tensor: Any) -> None:
        name = self._name()
        if name not in _NUMBERS:
            raise InputError(f"{self.where()}: the type {name!r} is unknown; convert the model with fp16")
        tensor.dataType = _NUMBERS[name][0]
        self._expect(",", "[")
        while self.token != "]":
            size = tensor.dimensions.add()
            if self.token == "?":
                size.unknown.variadic = False
            elif self.token.isdigit():
                size.constant.size = int(self.token)
            else:
                self._fail("a size")
            self._next()
            self._comma("]")
        tensor.rank = len(tensor.dimensions)
        self._next()

    def _value(self, value: Any) -> None:
        self._type(value.type)
        self._expect("(")
        kind = value.type.WhichOneof("type")
        if kind == "tensorType" and self.token == "BLOBFILE":
            self._blob(value.blobFileValue)
            self._expect(")")
        elif kind == "tensorType":
            dtype = DTYPES[value.type.tensorType.dataType]
            _store(value.immediateValue.tensor, dtype, self._literals())
            self._expect(")")
        elif kind == "listType":
            for literal in self._literals():
                item = value.immediateValue.list.values.add()
                item.type.CopyFrom(value.type.listType.type)
                _store(item.immediateValue.tensor, DTYPES[item.type.tensorType.dataType], [literal])
            self._expect(")")
        else:
            self._skip_to(")")

    def _blob(self, blob: Any) -> None:
        self._expect("BLOBFILE", "(")
        while self.token != ")":
            name = self._assigned()
            if self.token not in _TYPES:
                self._fail("a typed value")
            self._type(_Ignored())
            self._expect("(")
            (literal,) = self._literals() or [None]
            if name == "path":
                blob.fileName = str(literal)
            elif name == "offset":
                blob.offset = int(str(literal))
            self._expect(")")
            self._comma(")")
        self._next()

    def _literals(self) -> list[Any]:
        """Return numbers, flags or strings, out of as many brackets as there are."""
        found: list[Any] = []
        depth = 0
        while self.token not in (")",) or depth:
            if self.token == "[":
                depth += 1
            elif self.token == "]":
                depth -= 1
            elif self.kind == "string":
                found.append(self._string())
            elif self.kind == "number":
                found.append(_number(self.token))
            elif self.token in ("true", "false"):
                found.append(self.token == "true")
            elif self.token != ",":
                self._fail("a number, a flag or a string")
            self._next()
        return found

    def _string(self) -> str:
        try:
            return str(json.loads(self.token))
        except ValueError:
            self._fail("a string")

    def _assigned(self) -> str:
        name = self._name()
        self._expect("=")
        return name

    def _name(self) -> str:
        if self.kind != "name":
            self._fail("a name")
        name = self.token
        self._next()
        return name

    def _comma(self, end: str) -> None:
        if self.token == ",":
            self._next()
        elif self.token != end:
            self._fail(f"a comma or {end}")

    def _expect(self, *tokens: str) -> None:
        for token in tokens:
            if self.token != token:
                self._fail(token)
            self._next()

    def _skip_to(self, end: str) -> None:
        """Pass over everything up to a closing bracket, and over it."""
        opening = {")": "(", "]": "["}[end]
        depth = 1
        while depth:
            if self.kind == "end":
                self._fail(end)
            depth += (self.token == opening) - (self.token == end)
            self._next()

    def _next(self) -> None:
        while True:
            self.start = self.at
            if self.at == len(self.text):
                self.token, self.kind = "", "end"
                return
            found = _TOKEN.match(self.text, self.at)
            if found is None:
                self.token = self.text[self.at]
                self._fail("a token")
            self.at = found.end()
            if found.lastgroup is not None:
                self.token, self.kind = found[0], found.lastgroup
                return

    def where(self) -> str:
        """Return the file and the line."""
        return f"{self.path}, line {self.text.count(chr(10), 0, self.start) + 1}"

    def _fail(self, wanted: str) -> NoReturn:
        raise InputError(
            f"{self.where()}: {self.token[:40] or 'the end'!r} stands where {wanted} should; copy the model again"
        )


class _Ignored:
    """Takes a type that is not kept."""

    def __getattr__(self, name: str) -> Any:
        return _Ignored()

    def add(self) -> _Ignored:
        return self

    def __len__(self) -> int:
        return 0


def _number(token: str) -> float | int:
    if re.fullmatch(r"[-+]?\d+", token):
        return int(token)
    return float.fromhex(token) if "0x" in token.lower() else float(token)


def _store(tensor: Any, dtype: DType, literals: list[Any]) -> None:
    """Put numbers into a TensorValue as MIL.proto has them."""
    values = getattr(tensor, dtype.field)
    if dtype.field == "bytes":
        array = np.array(literals, dtype.numpy)
        if dtype.bits < 8:
            bits = np.unpackbits(array.view(np.uint8)[:, None], axis=1, bitorder="little")[:, : dtype.bits]
            array = np.packbits(bits.reshape(-1), bitorder="little")
        values.values = array.tobytes()
        return
    tensor_type = {"floats": float, "doubles": float, "bools": bool, "strings": str}.get(dtype.field, int)
    values.values.extend([tensor_type(literal) for literal in literals])
    values.SetInParent()
