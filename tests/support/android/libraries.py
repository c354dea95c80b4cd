"""The libraries of the Android app: what it calls of them, and what their manifests add to its own."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from android.kotlin import ROOT
from android.references import Reference

ANDROID, TOOLS = "{http://schemas.android.com/apk/res/android}", "{http://schemas.android.com/tools}"
EXECUTORCH = Path(__file__).with_name("executorch.txt")
COMPONENTS = ("activity", "service", "receiver", "provider")


@dataclass(frozen=True)
class Declared:
    """What a manifest asks for and brings: permissions, and components as (kind, class)."""

    permissions: frozenset[str] = frozenset()
    components: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Library:
    """A library's own manifest, for one version of it, and where it was read."""

    version: str  # of libs.versions.toml, by its name there
    number: str
    source: str
    declared: Declared


# The archives themselves can't be had here, or were repackaged: these are the manifests in their sources.
LIBRARIES = {
    "onnxruntime-android": Library(
        "onnxruntime",
        "1.29.0",
        "microsoft/onnxruntime, java/src/main/android-telemetry/AndroidManifest.xml at 03807fe8; its classes are in "
        "the archive that the tests run",
        Declared(
            frozenset({"android.permission.INTERNET", "android.permission.ACCESS_NETWORK_STATE"}),
            frozenset({("provider", "ai.onnxruntime.TelemetryInitializer")}),
        ),
    ),
    "executorch-android": Library(
        "executorch",
        "1.5.1",
        "pytorch/executorch, extension/android/executorch_android/src/main/AndroidManifest.xml at cff6f4dd: a test "
        "runner's <instrumentation> alone. It names androidx.core, which the app leaves out",
        Declared(),
    ),
}


def library_versions() -> dict[str, str]:
    """Return the versions of gradle/libs.versions.toml, by name."""
    path = ROOT / "android_demo" / "gradle" / "libs.versions.toml"
    versions: dict[str, str] = tomllib.loads(path.read_text(encoding="utf-8"))["versions"]
    return versions


def executorch_members() -> set[Reference]:
    """Return what ExecuTorch's version in the app has of all that it calls."""
    lines = EXECUTORCH.read_text(encoding="utf-8").splitlines()
    return {Reference(*line.split()) for line in lines if line and not line.startswith("#")}


def merged(manifest: ElementTree.Element, libraries: Iterable[Declared]) -> Declared:
    """Merge manifests as Gradle does: what the app's has, and what libraries' have that the app's does not remove."""
    kept, removed = _declared(manifest)
    permissions, components = set(kept.permissions), set(kept.components)
    for library in libraries:
        permissions |= library.permissions - removed.permissions
        components |= library.components - removed.components
    return Declared(frozenset(permissions), frozenset(components))


def strip_tools(manifest: ElementTree.Element) -> None:
    """Take out what only speaks to the merger of manifests: nodes to remove, and its attributes."""
    for parent in list(manifest.iter()):
        for child in list(parent):
            if child.get(f"{TOOLS}node") == "remove":
                parent.remove(child)
    for element in manifest.iter():
        for name in [name for name in element.attrib if name.startswith(TOOLS)]:
            del element.attrib[name]


def _declared(manifest: ElementTree.Element) -> tuple[Declared, Declared]:
    """What a manifest has, and what it removes of others."""
    found: tuple[set[tuple[str, str]], set[tuple[str, str]]] = set(), set()
    for element in manifest.iter():
        if element.tag in ("uses-permission", *COMPONENTS):
            is_removal = element.get(f"{TOOLS}node") == "remove"
            found[is_removal].add((element.tag, element.get(f"{ANDROID}name", "")))
    kept, removed = (
        Declared(
            frozenset(name for tag, name in each if tag == "uses-permission"),
            frozenset((tag, name) for tag, name in each if tag in COMPONENTS),
        )
        for each in found
    )
    return kept, removed
