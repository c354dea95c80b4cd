"""The table in android_demo/README.md of every call that the app makes of a library or of Android.

`PYTHONPATH=tests/support python tests/support/android/calls.py` writes it anew; it compiles the engine for that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from android.framework import SPEC, STUBS, read_spec
from android.kotlin import ROOT
from android.libraries import executorch_members, library_versions
from android.references import Reference, of_jar
from android.shared import merger
from devices.fetch import EXECUTORCH_ANDROID
from readme_tables import rewrite, with_calls

README = ROOT / "android_demo" / "README.md"
PROGRAM = "tests/support/android/calls.py"


def table() -> str:
    """Return the table: a row a class, with the version that has its members and what showed that."""
    versions = library_versions()
    onnxruntime = {each for each in of_jar(merger()) if each.owner.startswith("ai/onnxruntime/")}
    stubs = {wanted.name: wanted.members for wanted in read_spec(SPEC.read_text(encoding="utf-8")).values()}
    rows = [
        *_rows(
            _by_class(onnxruntime), f"ONNX Runtime {versions['onnxruntime']}", "compiled with its own classes, and run"
        ),
        *_rows(
            _by_class(executorch_members()),
            f"ExecuTorch {versions['executorch']}",
            "compared with its sources; run with the older one of "
            f"{EXECUTORCH_ANDROID.name} {EXECUTORCH_ANDROID.version}",
        ),
        *_rows(
            {name: members for name, members in stubs.items() if members},
            f"Android, API {versions['compileSdk']}",
            f"compared with {STUBS.name} {STUBS.version}; never run",
        ),
    ]
    head = "| class | members | version | how it was checked |\n| --- | --- | --- | --- |\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(text: str) -> str:
    """Return the README with the table in its place."""
    return with_calls(text, PROGRAM, table())


def _by_class(members: Iterable[Reference]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for member in members:
        name = "new" if member.name == "<init>" else member.name
        if name != "Companion":
            found[member.owner.replace("/", ".").replace("$", ".").removesuffix(".Companion")].add(name)
    return found


def _rows(classes: Mapping[str, Iterable[str]], version: str, how: str) -> list[tuple[str, ...]]:
    listed = {name: ", ".join(sorted(set(members) - {"<T>"})) for name, members in sorted(classes.items())}
    return [(f"`{name}`", members, version, how) for name, members in listed.items() if members]


if __name__ == "__main__":
    rewrite(README, with_table(README.read_text(encoding="utf-8")))
