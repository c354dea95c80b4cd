"""The table in ios_demo/README.md of every class and member of Apple's that the engine and the app use.

`PYTHONPATH=tests/support python tests/support/ios/calls.py` writes it anew, from the declarations that stand in for
Apple's on Linux: what these lack does not compile here.
"""

from __future__ import annotations

import re
from pathlib import Path

from ios.app import STUBS
from ios.swift import DEMO, PACKAGE
from readme_tables import rewrite, with_calls

README = DEMO / "README.md"
PROGRAM = "tests/support/ios/calls.py"
# Framework → the system that has all of it, and what showed that the app's code fits it.
_CHECKED = "type-checked"
_RUN = f"{_CHECKED}, and run on a stand-in"
FRAMEWORKS = {
    "CoreML": (PACKAGE / "Stubs" / "CoreML", "iOS 17; MLComputePlan 17.4", _RUN),
    "CoreVideo": (PACKAGE / "Stubs" / "CoreVideo", "iOS 17", _RUN),
    "CoreAI": (PACKAGE / "Stubs" / "CoreAI", "iOS 27", f"{_RUN}, both by its use in apple/coreai-models 9968e6ca"),
    "SwiftUI": (STUBS / "SwiftUI", "iOS 17", _CHECKED),
    "UIKit": (STUBS / "UIKit", "iOS 17", _CHECKED),
    "Charts": (STUBS / "Charts", "iOS 17", _CHECKED),
    "CoreGraphics": (STUBS / "CoreGraphics", "iOS 17", _CHECKED),
    "CryptoKit": (STUBS / "CryptoKit", "iOS 17", _CHECKED),
    "Darwin": (STUBS / "Darwin", "iOS 17", _CHECKED),
    "UniformTypeIdentifiers": (STUBS / "UniformTypeIdentifiers", "iOS 17", _CHECKED),
}
_TYPE = re.compile(
    r"(?:public|open) (?:final )?(?:class|struct|enum|protocol) (?!func|var)(\w+)|^extension (\w+)", re.MULTILINE
)
_MEMBER = re.compile(
    r"(?:public|open) (?:[\w@()]+ )*?(?:func|var|let|typealias) `?(\w+)`?|(?:public|open) (?:\w+ )*(init)\b"
)
_CASES = re.compile(r"^ *(?:indirect )?case (`?\w+`?(?:\([^)]*\))?(?: = \d+)?(?:, `?\w+`?)*)$")
NOT_APPLES = ("StandIn", "Surfaces")


def table() -> str:
    """Return the table: a row a type, with its members."""
    head = "| framework | type | members | version | how it was checked |\n| --- | --- | --- | --- | --- |\n"
    rows = []
    for framework, (folder, version, how) in FRAMEWORKS.items():
        for name, members in sorted(_declared(folder).items()):
            rows.append(f"| {framework} | `{name}` | {', '.join(sorted(members))} | {version} | {how} |\n")
    return head + "".join(rows)


def with_table(text: str) -> str:
    """Return the README with the table in its place."""
    return with_calls(text, PROGRAM, table())


def _declared(folder: Path) -> dict[str, set[str]]:
    """Every public type of a framework's stand-in, with its members; functions outside types stand under their own."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.swift")):
        if path.stem in NOT_APPLES:
            continue
        owners: list[tuple[int, str]] = []  # (indentation, type), the outermost first
        for line in path.read_text(encoding="utf-8").splitlines():
            indent = len(line) - len(line.lstrip())
            if line.strip():
                owners = [(at, name) for at, name in owners if at < indent]
            owner = ".".join(name for _, name in owners)
            if opened := _TYPE.search(line):
                name = opened[1] or opened[2]
                owners.append((indent, name))
                found.setdefault(".".join(name for _, name in owners), set())
            elif cases := _CASES.search(line):
                found[owner] |= {re.match(r"`?(\w+)", each.strip())[1] for each in cases[1].split(",")}
            elif member := _MEMBER.search(line):
                found.setdefault(owner or "(outside types)", set()).add(member[1] or member[2])
    return {name: members for name, members in found.items() if not name.startswith(NOT_APPLES)}


if __name__ == "__main__":
    rewrite(README, with_table(README.read_text(encoding="utf-8")))
