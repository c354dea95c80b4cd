"""The Android app: an APK with the real arm64 ONNX Runtime, built and signed here.

It is never started: no Android runs here. Its framework is stubs made from the published ones of API 36. What its
sources tell without an APK is in test_android_sources.py.
"""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

import pytest
from android import apk, framework, sentences
from android.references import Reference, of_jar
from android.shared import folder, merger
from devices.fetch import run
from shared_bundles import MiniatureBundle

pytestmark = pytest.mark.apps


@pytest.fixture(scope="session")
def built(miniature_bundle: MiniatureBundle) -> apk.Built:
    return apk.build(folder("apk"), merger(), miniature_bundle("pipeline", "onnx", "fp32"))


def test_it_is_signed(built: apk.Built) -> None:
    said = run("apksigner", "verify", "--verbose", "--min-sdk-version", str(apk.MIN_SDK), str(built.apk))
    assert said.startswith("Verifies")
    assert "Verified using v2 scheme (APK Signature Scheme v2): true" in said
    run("zipalign", "-c", "4", str(built.apk))


def test_what_it_says_of_itself(built: apk.Built) -> None:
    said = run("aapt2", "dump", "badging", str(built.apk))
    assert "package: name='org.lorarar.demo' versionCode='1' versionName='0.1.0'" in said
    assert "launchable-activity: name='org.lorarar.demo.MainActivity'" in said
    assert "minSdkVersion:'26'" in said or "sdkVersion:'26'" in said
    assert f"targetSdkVersion:'{apk.TARGET_SDK}'" in said
    assert "native-code: 'arm64-v8a'" in said
    assert "application-label:'LoRA.rar'" in said
    asked = set(re.findall(r"uses-permission: name='android\.permission\.(\w+)'", said))
    assert asked == {"FOREGROUND_SERVICE", "FOREGROUND_SERVICE_DATA_SYNC", "POST_NOTIFICATIONS", "WAKE_LOCK"}


def test_only_adb_can_start_the_benchmark(built: apk.Built) -> None:
    tree = run("aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", str(built.apk))
    (activity,) = [part for part in tree.split("E: activity") if "BenchmarkActivity" in part]
    assert re.search(r"permission\(0x[0-9a-f]+\)=\"android.permission.DUMP\"", activity)
    assert re.search(r"exported\(0x[0-9a-f]+\)=true", activity)
    (provider,) = [part for part in tree.split("E: provider") if "SharedImage" in part]
    assert re.search(r"exported\(0x[0-9a-f]+\)=false", provider)


def test_what_is_in_it(built: apk.Built) -> None:
    with zipfile.ZipFile(built.apk) as archive:
        names = set(archive.namelist())
        stored = {info.filename for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED}
        libraries = {name: archive.read(name) for name in names if name.startswith("lib/")}
        starts = {info.filename: _start(archive, info) for info in archive.infolist() if info.filename in libraries}
    assert {"classes.dex", "manifest.schema.json", "record.schema.json", "assets/bundles/onnx/manifest.json"} <= names
    wanted = ("onnxruntime", "onnxruntime4j_jni", "executorch")
    assert set(libraries) == {f"lib/arm64-v8a/lib{name}.so" for name in wanted}
    assert set(libraries) <= stored
    for role, chosen in apk.sample_names().items():
        assert len(chosen) == 6
        for name in chosen:
            assert {f"assets/samples/{role}/{name}.safetensors", f"assets/samples/{role}/{name}.png"} <= names
    for name, data in libraries.items():
        assert _machine(data) == 183, name  # EM_AARCH64
        assert all(alignment >= apk.PAGE for alignment in _alignments(data)), name
        assert starts[name] % apk.PAGE == 0, name  # so that it is mapped from the APK


def _start(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Where an entry's data begins in the archive: after its own header, whose lengths the directory may not have."""
    assert archive.fp is not None
    archive.fp.seek(entry.header_offset + 26)
    name, extra = struct.unpack("<HH", archive.fp.read(4))
    return int(entry.header_offset + 30 + name + extra)


def _machine(elf: bytes) -> int:
    return int(struct.unpack_from("<H", elf, 18)[0])


def _alignments(elf: bytes) -> list[int]:
    """Of the segments that are loaded."""
    (headers,) = struct.unpack_from("<Q", elf, 32)
    (count,) = struct.unpack_from("<H", elf, 56)
    found = [struct.unpack_from("<IIQQQQQQ", elf, headers + 56 * at) for at in range(count)]
    return [entry[7] for entry in found if entry[0] == 1]


def test_its_code(built: apk.Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.apk) as archive:
        dex = [Path(archive.extract(name, tmp_path)) for name in archive.namelist() if name.endswith(".dex")]
    classes = {name for path in dex for name in re.findall(r"Class descriptor  : '(L.+;)'", run("dexdump", str(path)))}
    wanted = {
        "demo/MainActivity",
        "demo/BenchmarkActivity",
        "demo/EngineService",
        "demo/SharedImage",
        "demo/CoefficientChart",
        "merger/Studio",
    }
    assert {f"Lorg/lorarar/{name};" for name in wanted} <= classes
    assert {"Lai/onnxruntime/OrtSession;", "Lorg/pytorch/executorch/Module;", "Lkotlin/Unit;"} <= classes
    assert not any(name.startswith("Landroid/") for name in classes)


# --- what the classes ask for


def test_the_engine_names_no_class_of_android() -> None:
    assert not {reference.owner for reference in of_jar(merger()) if reference.owner.startswith("android")}


def test_no_method_that_android_8_lacks(built: apk.Built) -> None:
    """Java 9 gave ByteBuffer and its kin methods that return their own type, which Android has from version 9 on."""
    found = {reference for jar in (merger(), built.app) for reference in of_jar(jar)}
    moved = re.compile(r"java/nio/\w+Buffer")
    assert not [
        reference
        for reference in found
        if moved.fullmatch(reference.owner)
        and reference.name in ("position", "limit", "flip", "clear", "rewind", "mark", "reset")
        and not reference.descriptor.endswith("Ljava/nio/Buffer;")
    ]


def test_every_class_of_java_that_is_used_is_on_android(built: apk.Built) -> None:
    found = {reference for jar in (merger(), built.app) for reference in of_jar(jar)}
    # D8 replaces what java.lang.invoke is used for.
    owners = {name for name in (reference.owner for reference in found) if re.match(r"java/(?!lang/invoke/)", name)}
    assert len(owners) > 40
    for owner in owners:
        framework.find_class(owner.replace("/", ".").replace("$", "."))


def test_references_are_seen(tmp_path: Path) -> None:
    source = tmp_path / "A.java"
    source.write_text("class A { double f(java.nio.ByteBuffer b) { b.position(1); return Math.rint(2.5); } }")
    run("javac", "--release", "11", "-d", str(tmp_path), str(source))
    with zipfile.ZipFile(tmp_path / "a.jar", "w") as jar:
        jar.write(tmp_path / "A.class", "A.class")
    found = of_jar(tmp_path / "a.jar")
    assert Reference("java/lang/Math", "rint", "(D)D") in found
    assert Reference("java/nio/ByteBuffer", "position", "(I)Ljava/nio/ByteBuffer;") in found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("class android.widget.Button: sing", "android.widget.Button has no sing"),
        ("class android.widget.Bell:", "Android has no android.widget.Bell"),
        ("class android.view.View:\n+ public native int findViewById();", "no findViewById of 0 parameters"),
    ],
)
def test_what_android_lacks_can_not_be_stubbed(spec: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        framework.java_sources(framework.read_spec(spec))


def test_what_the_engine_says_can_be_translated(built: apk.Built) -> None:
    """Each sentence is a resource of the app, as it is in the code: its spaces, quotes and places arrive."""
    told = run("aapt2", "dump", "resources", str(built.apk))
    texts = dict(re.findall(r'string/(said_\w+)\n\s+\(\) "(.*)"', told))
    templates = sentences.templates()
    assert len(templates) > 150 and texts.keys() == {sentences.resource(template) for template in templates}
    for template in templates:
        said = re.sub(r"%\d\$s", "%s", texts[sentences.resource(template)])
        assert said.replace("\\n", "\n").replace('\\"', '"') == template
