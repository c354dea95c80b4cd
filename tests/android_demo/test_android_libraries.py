"""What the Android app has of its libraries: the members that it calls, and the permissions that they would bring."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from android import apk, calls
from android.kotlin import APP, build_executorch, build_tests, compile_kotlin, executorch_classes, junit
from android.libraries import ANDROID, LIBRARIES, Declared, executorch_members, library_versions, merged, strip_tools
from android.references import Reference, declared_in, of_jar
from android.shared import folder, merger
from devices.fetch import ONNXRUNTIME_ANDROID, android_archive

pytestmark = pytest.mark.apps

DOUBLES = APP / "src" / "test" / "kotlin" / "org" / "pytorch" / "executorch" / "Module.kt"


def of_executorch(references: set[Reference]) -> set[Reference]:
    return {each for each in references if each.owner.startswith("org/pytorch/executorch/")}


@pytest.fixture(scope="module")
def compiled() -> tuple[Path, Path]:
    """The app's part that calls ExecuTorch, compiled with the package's classes, and with the doubles beside it."""
    place = folder("executorch")
    return build_executorch(place, merger(), build_tests(place, merger()))


def test_the_app_calls_what_its_executorch_has(compiled: tuple[Path, Path]) -> None:
    called = {each for jar in compiled for each in of_executorch(of_jar(jar, "org/lorarar/demo/ExecuTorchRuntime"))}
    assert called == executorch_members()


def wrong_members(doubles: set[Reference]) -> set[Reference]:
    """Return what doubles declare otherwise than ExecuTorch, and what they lack of a class that they stand in for."""
    facts = executorch_members()
    owners = {reference.owner for reference in doubles}
    named = {(fact.owner, fact.name) for fact in facts}
    other = {each for each in doubles if (each.owner, each.name) in named and each not in facts}
    return other | {fact for fact in facts if fact.owner in owners and fact not in doubles}


def test_the_doubles_have_executorchs_signatures(compiled: tuple[Path, Path]) -> None:
    assert wrong_members(of_executorch(declared_in(compiled[1]))) == set()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "fun loadMethod(methodName: String) {",
            "fun loadMethod(methodName: String): Int {\n        if (refuses) return 32",
        ),
        ("val backends: Array<String>", "val backends: List<String>"),
        ("fun destroy()", "fun close()"),
    ],
)
def test_a_double_of_another_version_is_seen(before: str, after: str, tmp_path: Path) -> None:
    text = DOUBLES.read_text(encoding="utf-8")
    assert text.count(before) == 1
    changed = text.replace(before, after)
    if "Int" in after:
        changed = changed.replace(
            'IllegalStateException("no such operator")\n', 'IllegalStateException("")\n        return 0\n'
        )
    changed = changed.replace('arrayOf("Xnn', 'listOf("Xnn') if "List<" in after else changed
    (tmp_path / "Module.kt").write_text(changed, encoding="utf-8")
    jar = compile_kotlin([tmp_path / "Module.kt"], tmp_path / "double.jar", [executorch_classes(), *junit()])
    assert wrong_members(of_executorch(declared_in(jar))) != set()


def test_onnxruntimes_members_are_the_archives() -> None:
    """The engine is compiled with the named version's own classes; that they are there is what compiling shows."""
    assert ONNXRUNTIME_ANDROID.name.endswith("onnxruntime")
    called = {each for each in of_jar(merger()) if each.owner.startswith("ai/onnxruntime/")}
    owners = {reference.owner for reference in called}
    there = {each.owner for each in declared_in(android_archive(ONNXRUNTIME_ANDROID) / "classes.jar")}
    assert len(called) > 20 and owners <= there


def test_the_readme_lists_every_call() -> None:
    text = calls.README.read_text(encoding="utf-8")
    assert calls.with_table(text) == text, "run  PYTHONPATH=tests/support python tests/support/android/calls.py"
    assert text.count("| ONNX Runtime 1.") >= 8 and text.count("| Android, API ") >= 40


# --- manifests


@pytest.fixture
def manifest() -> ElementTree.Element:
    return ElementTree.parse(apk.MAIN / "AndroidManifest.xml").getroot()


def test_the_readme_states_all_that_the_merged_manifest_has(manifest: ElementTree.Element) -> None:
    found = merged(manifest, [library.declared for library in LIBRARIES.values()])
    text = (APP.parent / "README.md").read_text(encoding="utf-8")
    told = {"FOREGROUND_SERVICE", "FOREGROUND_SERVICE_DATA_SYNC", "POST_NOTIFICATIONS", "WAKE_LOCK"}
    assert found.permissions == {f"android.permission.{name}" for name in told}
    assert all(f"`{name}`" in text for name in told) and "no permission for the network" in text
    providers = {name for kind, name in found.components if kind == "provider"}
    assert providers == {".SharedImage"}
    assert all(name.startswith(".") for _, name in found.components)


def test_the_manifests_are_those_of_the_named_versions() -> None:
    versions = library_versions()
    assert {library.version: library.number for library in LIBRARIES.values()}.items() <= versions.items()
    script = (APP / "build.gradle.kts").read_text(encoding="utf-8")
    used = {
        name.replace(".", "-") for name in re.findall(r"^    implementation\(libs\.([\w.]+)\)", script, re.MULTILINE)
    }
    assert used == set(LIBRARIES)
    assert 'implementation(libs.executorch.android) { exclude(group = "androidx.core") }' in script


def test_what_an_archive_here_declares_is_known() -> None:
    """The repackaged archive's own manifest may lack what the original's has, but adds nothing."""
    tree = ElementTree.parse(android_archive(ONNXRUNTIME_ANDROID) / "AndroidManifest.xml").getroot()
    have, known = merged(tree, []), LIBRARIES["onnxruntime-android"].declared
    assert have.permissions <= known.permissions and have.components <= known.components


def test_what_a_library_adds_is_seen(manifest: ElementTree.Element) -> None:
    own = merged(manifest, [])
    added = Declared(frozenset({"android.permission.CAMERA"}), frozenset({("service", "com.example.Spy")}))
    found = merged(manifest, [added])
    assert found.permissions - own.permissions == added.permissions
    assert found.components - own.components == added.components


def test_removed_nodes_and_tools_do_not_reach_the_apk(manifest: ElementTree.Element) -> None:
    strip_tools(manifest)
    assert not [name for element in manifest.iter() for name in element.attrib if "tools" in name]
    names = {element.get(f"{ANDROID}name") for element in manifest.iter()}
    assert not names & {"android.permission.INTERNET", "ai.onnxruntime.TelemetryInitializer"}
    assert ".SharedImage" in names
