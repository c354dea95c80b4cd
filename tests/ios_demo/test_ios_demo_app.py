"""The iOS app: its screens' code against stand-ins for Apple's frameworks, its project file against XcodeGen's format.

No Mac was at hand: neither Xcode, nor a Simulator, nor an iPhone is part of this.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from ios import sentences
from ios.app import SOURCES, compile_modules, darwin_modules, type_check, type_check_engine
from ios.swift import DEMO, PACKAGE, ROOT

from benchmarks.devices import ios_run
from benchmarks.devices.ios import EXECUTABLE
from benchmarks.devices.phone import APP
from export.targets import APPS, find_target

pytestmark = pytest.mark.apps

PROJECT = DEMO / "App" / "project.yml"


@pytest.fixture(scope="session")
def modules(products: Path) -> Path:
    return compile_modules(products)


# --- the screens


def test_the_screens_are_type_correct_in_swift_6(products: Path, modules: Path) -> None:
    ran = type_check(modules, products, sorted(SOURCES.glob("*.swift")))
    assert (ran.code, ran.err) == (0, ""), ran.err[-4000:]


def test_what_the_engine_says_can_be_translated() -> None:
    """Stages of work and sentences are keys of the app's string catalog; the screens' texts are SwiftUI's own keys."""
    text = sentences.document()
    assert text == sentences.CATALOG.read_text(encoding="utf-8"), sentences.__doc__
    strings = json.loads(text)["strings"]
    assert len(strings) > 200 and all(
        entry["localizations"]["en"]["stringUnit"]["value"] == key for key, entry in strings.items()
    )


CODE = """
    // InputError("of a comment")
    let table = [(Array("x".utf8), Sentence("is a table's \\(name(of: "a")) at 5 %"))]
    throw InputError(
        "\\(file): \\(isCut ? Sentence("cut") : Sentence("whole \\(n)")); "
            + "say \\"again\\"")
    let other = "not \\(said)"
"""


def test_sentences_are_found_in_swift() -> None:
    found = {"is a table's %@ at 5 %%", '%@: %@; say "again"', "cut", "whole %@"}
    assert set(sentences.sentences(CODE)) == found


# What SwiftUI does not look up in a catalog by itself: a value, a computed text, a format.
_BARE = re.compile(r'(?:value: |\?\? |return |case \.\w+: |String\(format: |told\()"((?:[^"\\]|\\.)*)"')


def bare_texts(swift: str) -> list[str]:
    """Return the literals of a screen that show words and no catalog translates; names of symbols have no space."""
    found = [re.sub(r"\\\(.*?\)|%[.\d]*\w", "", text) for text in _BARE.findall(swift)]
    return [text for text in found if re.search(r"[a-z]{3,}", text) and ("." not in text or " " in text)]


def test_no_word_of_a_screen_is_outside_the_catalog() -> None:
    assert bare_texts('LabeledContent("a", value: "not told \\(n)") case .failed: "NOT equal"') == [
        "not told ",
        "NOT equal",
    ]
    for path in sorted(SOURCES.glob("*.swift")):
        assert bare_texts(path.read_text(encoding="utf-8")) == [], f"{path.name}: write Sentence(…).localized"


MISTAKES = {
    "a case that there is not": ("CheckView.swift", 'case .failed: Sentence("NOT', 'case .broken: Sentence("NOT'),
    "a name of the model": ("GenerateView.swift", "startDrawing()", "startPainting()"),
    "another type": ("MergeView.swift", "$model[strength: lora]", "$model[strength: lora.name]"),
    "a modifier that there is not": ("AboutView.swift", '.navigationTitle("About")', '.navigationHeadline("About")'),
    "a race": ("HeadlessView.swift", "Task { @MainActor in stage = progress.stage }", "stage = progress.stage"),
    "a symbol of no framework": ("PixelImage+UIKit.swift", ".noneSkipLast", ".noneSkipMost"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_seen(products: Path, modules: Path, tmp_path: Path, name: str) -> None:
    """The stand-ins let not everything pass."""
    file, right, wrong = MISTAKES[name]
    folder = shutil.copytree(SOURCES, tmp_path / "Sources")
    text = (folder / file).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (folder / file).write_text(text.replace(right, wrong), encoding="utf-8")
    ran = type_check(modules, products, sorted(folder.glob("*.swift")))
    assert ran.code != 0 and f"{file}:" in ran.err and "error:" in ran.err


ENGINE = PACKAGE / "Sources" / "Merger"


def test_the_engine_is_type_correct_where_linux_only_parses_it(products: Path, modules: Path, tmp_path: Path) -> None:
    darwin = darwin_modules(modules, products)
    ran = type_check_engine(darwin, products, sorted(ENGINE.glob("*.swift")))
    assert (ran.code, ran.err) == (0, ""), ran.err[-4000:]
    for file, right, wrong in (
        ("DeviceFacts.swift", "info.ledger_phys_footprint_peak > 0", "info.ledger_phys_footprint_most > 0"),
        ("Sha256.swift", "hash.update(bufferPointer: bytes)", "hash.update(buffer: bytes)"),
        ("LoraRarPipeline.swift", "queue.asUnownedSerialExecutor()", "queue.asSerialExecutor()"),
    ):
        # One at a time: the compiler may stop at the first file with a mistake. The other files are only parsed.
        folder = shutil.copytree(ENGINE, tmp_path / file)
        text = (folder / file).read_text(encoding="utf-8")
        assert right in text
        (folder / file).write_text(text.replace(right, wrong), encoding="utf-8")
        wrong_engine = type_check_engine(darwin, products, sorted(folder.glob("*.swift")), only=file)
        assert f"{file}:" in wrong_engine.err


def test_the_screens_are_thin() -> None:
    """What can break is in the package, which tests run: no view reads files, runs models or parses."""
    for path in sorted(SOURCES.glob("*.swift")):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 150, path.name
        for word in ("import CoreML", "FileHandle", "JSONDecoder", "contentsOf:", "DispatchQueue", "URLSession"):
            assert word not in text, f"{path.name} has {word}"


def test_every_picture_says_what_it_shows() -> None:
    """A picture beside no text has a label, or is hidden from VoiceOver."""
    for path in sorted(SOURCES.glob("*View.swift")):
        text = path.read_text(encoding="utf-8")
        pictures = len(re.findall(r"^\s*Image\(", text, re.MULTILINE))
        said = len(re.findall(r"\.accessibility(Label|Hidden|Element)\(", text))
        assert pictures <= said, path.name


# --- the project file, by XcodeGen's Docs/ProjectSpec.md

KEYS: dict[str, set[str]] = {
    "project": {"name", "options", "packages", "settings", "targets", "schemes"},
    "options": {"bundleIdPrefix", "deploymentTarget"},
    "package": {"path", "url", "from", "group"},
    "settings": {"base", "configs", "groups"},
    "target": {"type", "platform", "sources", "dependencies", "info", "entitlements", "settings"},
    "source": {"path", "name", "excludes", "includes", "optional", "buildPhase", "type", "group"},
    "dependency": {"package", "product", "target", "sdk", "embed", "link"},
    "plist": {"path", "properties"},
    "scheme": {"build", "run", "test"},
}


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(PROJECT.read_text(encoding="utf-8"))
    return found


def known(what: str, found: dict[str, Any]) -> dict[str, Any]:
    assert set(found) <= KEYS[what], f"{what} has {set(found) - KEYS[what]}"
    return found


def test_every_key_is_one_of_xcodegens(project: dict[str, Any]) -> None:
    known("project", project)
    known("options", project["options"])
    known("settings", project["settings"])
    for package in project["packages"].values():
        assert (PROJECT.parent / known("package", package)["path"] / "Package.swift").exists()
    (target,) = project["targets"].values()
    known("target", target)
    assert (target["type"], target["platform"]) == ("application", "iOS")
    for source in target["sources"]:
        known("source", source)
        assert source.get("type") in (None, "folder", "group", "file")
        assert source.get("buildPhase") in (None, "sources", "resources", "none")
        assert (PROJECT.parent / source["path"]).exists() or source.get("optional") is True, source["path"]
    for dependency in target["dependencies"]:
        assert known("dependency", dependency)["package"] in project["packages"]
        assert f'.library(name: "{dependency["product"]}"' in (PACKAGE / "Package.swift").read_text(encoding="utf-8")
    for plist in ("info", "entitlements"):
        known("plist", target[plist])
    for scheme in project["schemes"].values():
        assert set(known("scheme", scheme)["build"]["targets"]) == set(project["targets"])


def test_the_app_is_the_one_that_the_rest_of_the_project_looks_for(project: dict[str, Any]) -> None:
    (target,) = project["targets"].values()
    # An identifier belongs to one team: XcodeGen takes the environment's, and Xcode the default where there is none.
    assert target["settings"]["base"]["PRODUCT_BUNDLE_IDENTIFIER"] == "${LORARAR_BUNDLE_ID}"
    assert project["settings"]["base"]["LORARAR_BUNDLE_ID"] == APP == "org.lorarar.demo"
    assert list(project["targets"]) == [EXECUTABLE]
    assert project["options"]["deploymentTarget"] == {"iOS": "17.0"}
    assert target["entitlements"]["properties"] == {"com.apple.developer.kernel.increased-memory-limit": True}
    folders = {source["path"]: source for source in target["sources"]}
    bundles = folders[Path(APPS["ios_demo"]).relative_to("App").as_posix()]
    # Compiled by Xcode, a package's hash would not be the manifest's.
    assert bundles["type"] == "folder" and bundles["buildPhase"] == "resources"
    assert "ios_demo" in find_target("coreml").apps
    (samples,) = [PROJECT.parent / path for path in folders if path.endswith("dataset")]
    assert samples.resolve() == ROOT / "models" / "miniature" / "dataset" and (samples / "dataset.json").exists()


def test_the_launch_arguments_are_those_of_the_benchmark() -> None:
    """What benchmarks.devices.ios_run sends, the app knows, and the record lies where it is looked for."""
    sent = set(re.findall(r'"(--[a-z-]+)"', Path(ios_run.__file__).read_text(encoding="utf-8")))
    ours = sent - {"--console", "--terminate-existing", "--bundle-id", "--pid", "--kill"}  # devicectl's
    assert {"--benchmark", "--bundle", "--component", "--runs", "--warmup", "--record-nonce"} <= ours
    sources = [path.read_text(encoding="utf-8") for path in (PACKAGE / "Sources" / "DemoCore").glob("*.swift")]
    known_words = {word for text in sources for word in re.findall(r'"(--[a-z-]+)"', text)}
    assert ours <= known_words
    assert ios_run.HOME == "Documents/benchmark" and any('"benchmark"' in text for text in sources)


def test_nothing_that_is_made_is_committed() -> None:
    ignored = (PROJECT.parent / ".gitignore").read_text(encoding="utf-8").split()
    assert {"*.xcodeproj/", "Info.plist", "*.entitlements", "Resources/"} <= set(ignored)
