"""The part of Android's framework that the app uses, as Java stubs made from the published API 36 stubs.

No android.jar can be installed here. The stubs of `chaquopy-stubs-android` state every public and protected member of
the framework with its types. framework.txt names the classes and members that the app uses; what it names and Android
lacks is an error. Constants are no compile-time constants here, so that the app reads the phone's own.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

from devices.fetch import Wheel, run, wheel

STUBS = Wheel(
    "chaquopy-stubs-android",
    "36.20260406",
    "any",
    "3.13",
    "5e18511ccb7ae519d8c4643408cf16262fa5f20eb1d1a7e97cfe28de16e12008",
)
SPEC = Path(__file__).with_name("framework.txt")
STANDARD = ("java.io.Closeable", "java.lang.CharSequence")  # interfaces that need no stub
PRIMITIVES = ("boolean", "byte", "char", "short", "int", "long", "float", "double")
PLAIN = {"None": "void", "bool": "boolean", "str": "String", "int": "int", "float": "float", "typing.Any": "Object"}
PLAIN |= {"typing.Type[java.lang.Object]": "Class<?>"}
# Bases that need no stub, and how the constructors of a stub begin there.
JAVA_BASES = {
    "java.lang.Exception": "",
    "java.lang.RuntimeException": "",
    "java.io.FileInputStream": "super((java.io.FileDescriptor) null);",
}


@dataclass
class Wanted:
    """A class of the framework as the app sees it."""

    name: str  # android.view.View.OnClickListener
    kind: str  # class, abstract class, interface
    members: dict[str, str] = field(default_factory=dict)  # name → the type that the published stubs leave open, or ""
    literal: list[str] = field(default_factory=list)  # generic methods, in Java


def build(folder: Path) -> Path:
    """Write the stubs' sources and classes; returns the folder of the classes."""
    spec = read_spec(SPEC.read_text(encoding="utf-8"))
    sources = []
    for name, text in java_sources(spec).items():
        path = folder / "sources" / (name.replace(".", "/") + ".java")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sources.append(str(path))
    classes = folder / "classes"
    run("javac", "--release", "11", "-nowarn", "-d", str(classes), *sources)
    return classes


def read_spec(text: str) -> dict[str, Wanted]:
    """`kind name: member member:type …` a line; a line that begins with `+` is Java of the class above it."""
    found: dict[str, Wanted] = {}
    last = None
    for line in text.splitlines():
        if line.startswith("+"):
            assert last is not None
            last.literal.append(line[1:].strip())
        elif line.strip() and not line.startswith("#"):
            head, _, tail = line.partition(":")
            kind, _, name = head.strip().rpartition(" ")
            members = dict((member + ":").split(":")[:2] for member in tail.split())
            last = found[name] = Wanted(name, kind, members)
    return found


def java_sources(spec: dict[str, Wanted]) -> dict[str, str]:
    """Java of every outermost class, by name, nested classes inside. ValueError names what Android does not have."""
    nested: dict[str, list[str]] = {}
    for name in spec:
        owner = name.rpartition(".")[0]
        if owner in spec:
            nested.setdefault(owner, []).append(name)
    tops = [name for name in spec if name.rpartition(".")[0] not in spec]

    def body(name: str, indent: str) -> str:
        wanted = spec[name]
        lines = [f"{indent}{_head(wanted, spec, indent != '')} {{"]
        lines += [f"{indent}    {line}" for line in _members(wanted, spec)]
        lines += [body(inner, indent + "    ") for inner in nested.get(name, [])]
        return "\n".join([*lines, f"{indent}}}"])

    return {name: f"package {name.rpartition('.')[0]};\n\n{body(name, '')}\n" for name in tops}


def _head(wanted: Wanted, spec: dict[str, Wanted], inner: bool) -> str:
    simple = wanted.name.rpartition(".")[2]
    bases = [base for base in (_resolve(text, wanted.name) for text in _bases(wanted.name)) if base in spec]
    classes = [base for base in bases if spec[base].kind != "interface"]
    classes += [text for text in _bases(wanted.name) if text in JAVA_BASES]
    interfaces = [base for base in bases if spec[base].kind == "interface"]
    interfaces += [text for text in _bases(wanted.name) if text in STANDARD]
    words = f"public {'static ' if inner else ''}{wanted.kind} {simple}{wanted.members.get('<T>', '')}"
    if wanted.kind == "interface":
        return words + (f" extends {', '.join(interfaces)}" if interfaces else "")
    return (
        words
        + (f" extends {classes[0]}" if classes else "")
        + (f" implements {', '.join(interfaces)}" if interfaces else "")
    )


def _members(wanted: Wanted, spec: dict[str, Wanted]) -> list[str]:
    node, lines = find_class(wanted.name), []
    concrete = wanted.kind != "interface"
    for member, open_type in wanted.members.items():
        if member == "<T>":
            continue
        name = "__init__" if member == "new" else member
        found = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name in (name, name + "_")]
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and ast.unparse(item.target) == name]
        made = [_field(wanted, item, open_type) for item in fields]
        made += [line for item in found if (line := _method(wanted, item, open_type, spec)) is not None]
        if not made:
            raise ValueError(f"Android's {wanted.name} has no {member} of known types; see {SPEC.name}")
        lines += made
    lines += [_checked(line, wanted.name, node) for line in wanted.literal]
    if concrete and "new" not in wanted.members:
        lines.append(f"protected {wanted.name.rpartition('.')[2]}() {{{_begin(wanted.name)}}}")
    elif concrete and not any(line.startswith(f"public {wanted.name.rpartition('.')[2]}()") for line in lines):
        # For the stubs of subclasses, which name no constructor of this one.
        lines.append(f"protected {wanted.name.rpartition('.')[2]}() {{{_begin(wanted.name)}}}")
    return list(dict.fromkeys(lines))


def _checked(line: str, owner: str, node: ast.ClassDef) -> str:
    """A line of Java, if Android has a method or constructor of this name with as many parameters."""
    declared = re.search(r"(\w+)\((.*)\)", line)
    assert declared is not None
    name = "__init__" if owner.endswith(f".{declared[1]}") else declared[1]
    count = declared[2].count(",") + 1 if declared[2] else 0
    same = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name]
    if not any(len(_parameters(item)) == count for item in same):
        raise ValueError(f"Android's {owner} has no {declared[1]} of {count} parameters; see {SPEC.name}")
    return line


def _field(wanted: Wanted, item: ast.AnnAssign, open_type: str) -> str:
    name, text = ast.unparse(item.target), ast.unparse(item.annotation)
    static = text.startswith("typing.ClassVar[")
    inner = text[len("typing.ClassVar[") : -1] if static else text
    kind = open_type or _java(inner, wanted.name, {}, always=True)
    if not static:
        return f"public {kind} {name};"
    # Not a constant for the compiler, which would else copy this stub's value into the app.
    value = f"(new {kind}[1])[0]" if kind in PRIMITIVES else "null"
    return f"public static final {kind} {name} = {value};"


def _method(wanted: Wanted, item: ast.FunctionDef, open_type: str, spec: dict[str, Wanted]) -> str | None:
    """A method or constructor in Java; None where a parameter's class is not among the stubs."""
    types = []
    for parameter in _parameters(item):
        kind = _java(ast.unparse(parameter.annotation) if parameter.annotation else "None", wanted.name, spec)
        if kind is None:
            return None
        types.append(kind)
    given = ", ".join(f"{kind} p{at}" for at, kind in enumerate(types))
    if item.args.vararg is not None:
        kind = _java(ast.unparse(item.args.vararg.annotation or ast.Constant(None)), wanted.name, spec)
        if kind is None:
            return None
        given = ", ".join([*([given] if given else []), f"{kind}... rest"])
    simple = wanted.name.rpartition(".")[2]
    if item.name == "__init__":
        return f"public {simple}({given}) {{{_begin(wanted.name)}}}"
    returned = open_type or _java(ast.unparse(item.returns) if item.returns else "None", wanted.name, spec)
    if returned is None:
        return None
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in item.decorator_list)
    words = "static native" if static else ("" if wanted.kind == "interface" else "native")
    return f"public {words} {returned} {item.name.rstrip('_')}({given});".replace("  ", " ")


def _parameters(item: ast.FunctionDef) -> list[ast.arg]:
    return [argument for argument in (*item.args.posonlyargs, *item.args.args) if argument.arg != "self"]


def _java(text: str, owner: str, spec: dict[str, Wanted], always: bool = False) -> str | None:
    """A type of the published stubs in Java; None where it is a class of Android that has no stub here."""
    options = [option.strip() for option in text.split(" | ")]
    for option in options:
        if primitive := re.fullmatch(r"java\.j(\w+)", option):
            return primitive[1]
    options = [option for option in options if option != "None"] or ["None"]
    # A class that also takes Python's own, as in `str | java.lang.String`.
    first = next((option for option in options if option.startswith("java.lang.")), options[0])
    if first in PLAIN:
        return PLAIN[first]
    if array := re.fullmatch(r"java\.chaquopy\.JavaArrayJ(\w+)", first):
        return f"{array[1].lower()}[]"
    if array := re.fullmatch(r"java\.chaquopy\.JavaArray\[(.+)\]", first):
        inner = _java(array[1], owner, spec, always)
        return f"{inner}[]" if inner else None
    bare = first.partition("[")[0]
    if bare.startswith("java."):
        return bare
    name = _resolve(bare, owner)
    return name if always or name in spec else None


def _begin(name: str) -> str:
    """How the constructors of a stub begin."""
    return next((JAVA_BASES[base] for base in _bases(name) if base in JAVA_BASES), "")


def _resolve(text: str, owner: str) -> str:
    """The full name of a class that the stubs of `owner`'s package name."""
    bare = text.partition("[")[0]
    if bare.startswith(("android.", "java.")):
        return bare
    return f"{_package(owner)}.{bare}"


def _package(name: str) -> str:
    return ".".join(takewhile(lambda part: part[0].islower(), name.split(".")))


def _bases(name: str) -> list[str]:
    return [ast.unparse(base) for base in find_class(name).bases]


def find_class(name: str) -> ast.ClassDef:
    """A class as the published stubs state it. ValueError when Android has none of that name."""
    body: list[ast.stmt] = _module(_package(name)).body
    found: ast.ClassDef | None = None
    for part in name[len(_package(name)) + 1 :].split("."):
        found = next((item for item in body if isinstance(item, ast.ClassDef) and item.name == part), None)
        if found is None:
            raise ValueError(f"Android has no {name}; see {SPEC.name}")
        body = found.body
    assert found is not None
    return found


@cache
def _module(package: str) -> ast.Module:
    first, *rest = package.split(".")
    path = wheel(STUBS).joinpath(f"{first}-stubs", *rest, "__init__.pyi")
    return ast.parse(path.read_text(encoding="utf-8"))
